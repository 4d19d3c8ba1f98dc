"""What schemathesis does otherwise than by itself."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    """Integers without a point: for JSON Schema 236.0 is one, for readers of JSON with types it is none."""
    return plain(body)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Streams of events are judged event by event: that their data is JSON of these forms, OpenAPI 3.1 cannot say."""
    named = {
        "follow_events": ["Event"],
        "read_output": ["OutputEvent", "OutputGap", "Process"],
    }
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            forms = named.pop(operation.get("operationId"), None)
            if forms:
                content = operation["responses"]["200"]["content"]["text/event-stream"]
                ids = {one["schema"]["pattern"] for one in operation["parameters"] if one["name"].endswith("t-id")}
                content["itemSchema"] = event(forms, *ids)
    assert not named, f"the document has no {named}"


def event(forms, ids):
    return {
        "type": "object",
        "required": ["data", "event", "id"],
        "properties": {
            "event": {"not": {"const": "message"}},
            # What is told is taken again.
            "id": {"type": "string", "pattern": ids, "minLength": 1},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"anyOf": [{"$ref": f"#/components/schemas/{form}"} for form in forms]},
            },
        },
    }


def plain(value):
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
