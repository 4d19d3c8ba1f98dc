//! What the text of parameters may be, which their types do not say: each as the code that reads it has
//! it. `scripts/api-test` sends what fits and what does not, and compares the answers.

use serde_json::{Map, Value, json};

use crate::api::processes::signal_pattern;

/// Of every operation, or of the one named; where, and the name; and what its schema has besides.
type Rule = (Option<&'static str>, &'static str, &'static str, fn() -> Value);

const RULES: [Rule; 27] = [
    (None, "query", "timeout_seconds", || json!({"exclusiveMinimum": 0, "maximum": 3600})),
    (Some("start_process"), "query", "wait", || json!({"maximum": 3600})),
    (None, "query", "path", guest_path),
    (None, "query", "to", guest_path),
    (None, "query", "mode", || json!({"pattern": "^(0?[0-7]{1,4})$"})),
    (None, "query", "uid", number),
    (None, "query", "gid", number),
    (Some("make_directory"), "query", "kind", || json!({"enum": ["directory"]})),
    (Some("set_password"), "path", "name", user_name),
    (Some("list_ssh_keys"), "path", "name", user_name),
    (Some("replace_ssh_keys"), "path", "name", user_name),
    (Some("change_ssh_keys"), "path", "name", user_name),
    (Some("show_file"), "query", "after", unpadded),
    (Some("show_file"), "query", "limit", || json!({"minimum": 1, "maximum": 1000})),
    (Some("list_vms"), "query", "label", || json!({"items": {"type": "string", "pattern": "="}})),
    (
        Some("list_freezes"),
        "query",
        "after",
        || json!({"pattern": "^[0-9]{1,20}\\.frz_[0-9a-f]{32}$"}),
    ),
    (
        Some("follow_events"),
        "query",
        "vm",
        || json!({"items": {"type": "string", "pattern": "^[A-Za-z0-9_:@-][A-Za-z0-9._:@-]{0,127}$"}}),
    ),
    (Some("follow_events"), "query", "last_event_id", event_id),
    (Some("follow_events"), "header", "last-event-id", event_id),
    (Some("read_output"), "query", "last_event_id", output_id),
    (Some("read_output"), "header", "last-event-id", output_id),
    (None, "header", "idempotency-key", || json!({"pattern": "^[!-~]{1,255}$"})),
    (
        None,
        "header",
        "content-range",
        || json!({"pattern": "^bytes [0-9]{1,18}-[0-9]{1,18}/[0-9]{1,18}$"}),
    ),
    (
        None,
        "header",
        "repr-digest",
        || json!({"pattern": "^(sha-256=:[A-Za-z0-9+/]{43}=:|sha-512=:[A-Za-z0-9+/]{86}==:)$"}),
    ),
    (Some("remove_file"), "header", "if-match", one_tag),
    (Some("remove_file_content"), "header", "if-match", one_tag),
    (None, "header", "prefer", || json!({"examples": ["respond-async"]})),
];

fn guest_path() -> Value {
    json!({"pattern": "^[^\\u0000]+$"})
}

fn number() -> Value {
    json!({"minimum": 0, "maximum": u32::MAX - 1})
}

fn one_tag() -> Value {
    let number = "(0|[1-9a-f][0-9a-f]{0,15})";
    json!({"pattern": format!("^(\\*|\"{number}-{number}-{number}-{number}\")$")})
}

/// No control characters; that it has at most 256 bytes, characters cannot say.
fn user_name() -> Value {
    json!({"pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"})
}

/// Base64 for URLs, without the bits that stand for nothing.
fn unpadded() -> Value {
    let one = "[A-Za-z0-9_-]";
    json!({"pattern": format!("^({one}{{4}})*({one}[AQgw]|{one}{{2}}[AEIMQUYcgkosw048])?$")})
}

/// None is as good as an empty one: browsers keep that after an event whose id is empty.
fn event_id() -> Value {
    json!({"pattern": "^([0-9A-Fa-f]{1,16}-[0-9A-Fa-f]{1,16})?$"})
}

fn output_id() -> Value {
    json!({"pattern": "^([0-9]{1,18}-[0-9]{1,18}(-end)?)?$"})
}

/// Completes what members of bodies are made of.
pub(super) fn complete_schemas(schemas: &mut Map<String, Value>) {
    let forms = schemas.get_mut("SignalName").and_then(|name| name["oneOf"].as_array_mut());
    for form in forms.into_iter().flatten() {
        if form["type"] == "integer" {
            add(form, &json!({"minimum": 1, "maximum": 64}));
        } else {
            add(form, &json!({"pattern": signal_pattern()}));
        }
    }
}

/// Completes the parameters of an operation. None of them can be `null`: that is no text.
pub(super) fn complete(operation: &mut Value, schemas: &Value) {
    let name = operation["operationId"].clone();
    let Some(Value::Array(parameters)) = operation.get_mut("parameters") else { return };
    for parameter in parameters {
        if let Some(kind) = parameter.pointer_mut("/schema/type")
            && let Some(one) = kind.as_array().and_then(|k| k.iter().find(|k| *k != "null"))
        {
            *kind = one.clone();
        }
        for (of, place, named, schema) in RULES {
            let meant = of.is_none_or(|of| name == of);
            if meant && parameter["in"] == place && parameter["name"] == named {
                add(&mut parameter["schema"], &schema());
            }
        }
        let words = match (name.as_str(), parameter["name"].as_str()) {
            (Some("list_freezes"), Some("state")) => standings(schemas),
            (Some("follow_events"), Some("kind")) => families(schemas),
            _ => continue,
        };
        parameter["schema"]["items"]["enum"] = words.into();
    }
}

fn add(schema: &mut Value, more: &Value) {
    for (key, value) in more.as_object().cloned().into_iter().flatten() {
        schema[key] = value;
    }
}

/// The states of leases, and the two that stand for several.
fn standings(schemas: &Value) -> Vec<Value> {
    let states = schemas["LeaseState"]["enum"].as_array().into_iter().flatten().cloned();
    [json!("active"), json!("ended")].into_iter().chain(states).collect()
}

/// The kinds of events, and `freeze.*` and the like for all that begin so.
fn families(schemas: &Value) -> Vec<Value> {
    let kinds = schemas["EventKind"]["enum"].as_array().cloned().unwrap_or_default();
    let mut words = kinds.clone();
    for kind in kinds.iter().filter_map(Value::as_str) {
        let Some((family, _)) = kind.split_once('.') else { continue };
        let family = json!(format!("{family}.*"));
        if !words.contains(&family) {
            words.push(family);
        }
    }
    words
}
