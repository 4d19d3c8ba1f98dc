//! Each kind of break is found, and growth is none.

use serde_json::{Value, json};

use super::operations::breaks;

fn released() -> Value {
    json!({
        "paths": {
            "/vms/{id}/things": {
                "get": {
                    "operationId": "list_things",
                    "x-qga-right": "observe",
                    "parameters": [
                        {"in": "path", "name": "id", "required": true, "schema": {"type": "string"}},
                        {"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 9}}
                    ],
                    "responses": {
                        "200": {
                            "headers": {"etag": {}},
                            "content": {
                                "application/json": {
                                    "schema": {"$ref": "#/components/schemas/Thing"}
                                }
                            }
                        },
                        "404": {"$ref": "#/components/responses/not_found"}
                    }
                },
                "post": {
                    "operationId": "make_thing",
                    "x-qga-right": "exec",
                    "requestBody": {
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/NewThing"}
                            }
                        }
                    },
                    "responses": {"204": {}}
                }
            },
            "/version": {"get": {"operationId": "version", "security": [], "responses": {"200": {}}}}
        },
        "components": {
            "responses": {
                "not_found": {
                    "content": {
                        "application/problem+json": {
                            "schema": {"type": "object", "properties": {"code": {"type": "string"}}}
                        }
                    }
                }
            },
            "schemas": {
                "Thing": {
                    "type": "object",
                    "required": ["size", "state"],
                    "properties": {
                        "size": {"type": "integer", "format": "int64"},
                        "state": {"type": "string", "enum": ["good", "bad"]},
                        "inner": {"oneOf": [
                            {"$ref": "#/components/schemas/Thing"}, {"type": "null"}
                        ]},
                        "kind": {"oneOf": [
                            {"type": "object", "properties": {"a": {"type": "string"}}},
                            {"type": "string"}
                        ]},
                        "tags": {"type": "array", "items": {"type": "string"}}
                    }
                },
                "NewThing": {
                    "allOf": [
                        {"type": "object", "required": ["name"], "properties": {
                            "name": {"type": "string", "maxLength": 10}
                        }},
                        {"type": "object", "properties": {
                            "mode": {"enum": ["fast", "slow"]},
                            "size": {"type": ["integer", "null"], "minimum": 0},
                            "who": {"oneOf": [{"type": "integer"}, {"type": "string"}]}
                        }}
                    ]
                },
                "Event": {"type": "object", "properties": {"kind": {"type": "string"}}}
            }
        }
    })
}

/// The one break that comes of `change` at `pointer`.
#[track_caller]
fn one(pointer: &str, change: impl FnOnce(&mut Value), expected: &str) {
    let mut new = released();
    change(new.pointer_mut(pointer).expect("a place in the document"));
    assert_eq!(breaks(&released(), &new), [expected], "{pointer}");
}

fn removed(name: &str) -> impl FnOnce(&mut Value) {
    move |value: &mut Value| {
        drop(value.as_object_mut().unwrap().remove(name).expect("it was there"));
    }
}

fn set(to: Value) -> impl FnOnce(&mut Value) {
    move |value: &mut Value| *value = to
}

const GET: &str = "/paths/~1vms~1{id}~1things/get";
const POST: &str = "/paths/~1vms~1{id}~1things/post";
const THING: &str = "/components/schemas/Thing";
const NEW: &str = "/components/schemas/NewThing/allOf/1";

#[test]
fn of_operations() {
    one("/paths", removed("/version"), "GET /version: the operation is gone");
    let path = "/paths/~1vms~1{id}~1things";
    one(path, removed("post"), "POST /vms/{id}/things: the operation is gone");
    let id = format!("{POST}/operationId");
    let expected = r#"POST /vms/{id}/things: the operationId was "make_thing" and is "made""#;
    one(&id, set("made".into()), expected);
    let right = r#"GET /vms/{id}/things: the right that it needs was "observe" and is "exec""#;
    one(&format!("{GET}/x-qga-right"), set("exec".into()), right);
    let public = "GET /version: needs credentials now";
    one("/paths/~1version/get", removed("security"), public);
}

#[test]
fn of_parameters() {
    let gone = "GET /vms/{id}/things query:limit: the parameter is gone";
    one(&format!("{GET}/parameters"), |list| drop(list.as_array_mut().unwrap().pop()), gone);
    let limit = format!("{GET}/parameters/1");
    let required = "GET /vms/{id}/things query:limit: the parameter is required now";
    one(&limit, |limit| limit["required"] = true.into(), required);
    let lower = "GET /vms/{id}/things query:limit: maximum was 9 and is 8";
    one(&format!("{limit}/schema/maximum"), set(8.into()), lower);
    let more = json!({"in": "query", "name": "all", "required": true, "schema": {}});
    let new = "GET /vms/{id}/things query:all: a new parameter is required";
    one(&format!("{GET}/parameters"), |list| list.as_array_mut().unwrap().push(more), new);
}

#[test]
fn of_request_bodies() {
    let at = "POST /vms/{id}/things request";
    one(POST, removed("requestBody"), &format!("{at}: takes no body any more"));
    let body = format!("{POST}/requestBody");
    let required = format!("{at}: the body is required now");
    one(&body, |body| body["required"] = true.into(), &required);
    let needs = "GET /vms/{id}/things request: needs a body now";
    let new = json!({"required": true, "content": {}});
    one(GET, |get| get["requestBody"] = new, needs);
    let gone = format!("{at}: application/json is gone");
    one(&format!("{body}/content"), removed("application/json"), &gone);
}

#[test]
fn of_what_requests_hold() {
    let at = "POST /vms/{id}/things request";
    let member = |name: &str| format!("{NEW}/properties/{name}");
    one(&format!("{NEW}/properties"), removed("size"), &format!("{at}.size: the member is gone"));
    let required = format!("{at}.mode: the member is required now");
    one(NEW, |new| new["required"] = json!(["mode"]), &required);
    let word = format!("{at}.mode: \"slow\" is not in the list any more");
    one(&format!("{}/enum", member("mode")), set(json!(["fast"])), &word);
    let types = format!("{at}.size: the type was integer|null and is integer");
    one(&format!("{}/type", member("size")), set("integer".into()), &types);
    let least = format!("{at}.size: minimum was 0 and is 1");
    one(&format!("{}/minimum", member("size")), set(1.into()), &least);
    let name = "/components/schemas/NewThing/allOf/0/properties/name";
    let longest = format!("{at}.name: maxLength was 10 and is 9");
    one(&format!("{name}/maxLength"), set(9.into()), &longest);
    let pattern = format!("{at}.name: pattern was null and is \"^a\"");
    one(name, |name| name["pattern"] = "^a".into(), &pattern);
    let form = format!("{at}.who: one of several forms is gone");
    one(&format!("{}/oneOf", member("who")), set(json!([{"type": "integer"}])), &form);
    let closed = format!("{at}: takes only members that it lists now");
    one(NEW, |new| new["additionalProperties"] = false.into(), &closed);
}

#[test]
fn of_answers() {
    let at = "GET /vms/{id}/things";
    one(&format!("{GET}/responses"), removed("404"), &format!("{at}: answer 404 is gone"));
    let ok = format!("{GET}/responses/200");
    let header = format!("{at} 200: header etag is gone");
    one(&format!("{ok}/headers"), removed("etag"), &header);
    let gone = format!("{at} 200: application/json is gone");
    one(&format!("{ok}/content"), removed("application/json"), &gone);
    let problem = "/components/responses/not_found/content/application~1problem+json/schema";
    let code = format!("{at} 404.code: the member is gone");
    one(&format!("{problem}/properties"), removed("code"), &code);
}

#[test]
fn of_what_answers_hold() {
    let at = "GET /vms/{id}/things 200";
    let member = |name: &str| format!("{THING}/properties/{name}");
    one(&format!("{THING}/properties"), removed("tags"), &format!("{at}.tags: the member is gone"));
    let absent = format!("{at}.size: the member may be absent now");
    one(&format!("{THING}/required"), set(json!(["state"])), &absent);
    let types = format!("{at}.size: the type was integer and is integer|null");
    one(&format!("{}/type", member("size")), set(json!(["integer", "null"])), &types);
    let format = format!("{at}.size: format was \"int64\" and is \"int32\"");
    one(&format!("{}/format", member("size")), set("int32".into()), &format);
    let items = format!("{at}.tags[]: the type was string and is integer");
    one(&format!("{}/items/type", member("tags")), set("integer".into()), &items);
    let word = format!("{at}.state: \"bad\" is not in the list any more");
    one(&format!("{}/enum", member("state")), set(json!(["good", "worse"])), &word);
    let open = format!("{at}.state: was one of a list and is not any more");
    one(&member("state"), removed("enum"), &open);
    let form = format!("{at}.kind: has a form that it had not");
    let more = json!({"type": "boolean"});
    one(
        &format!("{}/oneOf", member("kind")),
        |list| list.as_array_mut().unwrap().push(more),
        &form,
    );
    one("/components/schemas", removed("Event"), "Event: the schema is gone");
    let kind = "Event.kind: the type was string and is integer";
    one("/components/schemas/Event/properties/kind/type", set("integer".into()), kind);
}

#[test]
fn growth_is_none() {
    let mut new = released();
    let mut grow = |pointer: &str, name: &str, value: Value| {
        new.pointer_mut(pointer).unwrap()[name] = value;
    };
    let operation = json!({"operationId": "more", "responses": {"200": {}}});
    grow("/paths", "/more", json!({"get": operation}));
    grow("/paths/~1version", "put", operation);
    grow(&format!("{GET}/responses"), "429", json!({}));
    grow(&format!("{GET}/parameters/1/schema"), "maximum", 10.into());
    grow(&format!("{THING}/properties"), "more", json!({"type": "string"}));
    grow(THING, "required", json!(["size", "state", "more"]));
    grow(&format!("{THING}/properties/state"), "enum", json!(["good", "bad", "ugly"]));
    grow(&format!("{NEW}/properties"), "more", json!({"type": "string"}));
    grow(&format!("{NEW}/properties/mode"), "enum", json!(["fast", "slow", "still"]));
    grow(&format!("{NEW}/properties/size"), "type", json!(["integer", "null", "string"]));
    assert_eq!(breaks(&released(), &new), [""; 0]);
    assert_eq!(breaks(&released(), &released()), [""; 0]);
}
