"""What schemathesis does otherwise than by itself."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    """Integers without a point: for JSON Schema 236.0 is one, for readers of JSON with types it is none."""
    return plain(body)


def plain(value):
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
