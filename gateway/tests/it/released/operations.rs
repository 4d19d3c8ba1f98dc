//! Paths, operations, parameters, bodies and answers.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schemas::{Comparison, Way};

/// What of `old` a client cannot rely on any more, a sentence each.
pub(super) fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut comparison = Comparison::new(old, new);
    for (path, item) in members(&old["paths"]) {
        for (method, operation) in members(item) {
            let at = format!("{} {path}", method.to_uppercase());
            match new["paths"][path].get(method) {
                Some(now) => compare(&mut comparison, operation, now, &at),
                None => comparison.found(&at, "the operation is gone"),
            }
        }
    }
    // Those of events are named by text only; and clients have types with these names.
    for (name, schema) in members(&old["components"]["schemas"]) {
        match new["components"]["schemas"].get(name) {
            Some(now) if !comparison.knows(name) => {
                comparison.schema(schema, now, Way::Answer, name);
            }
            Some(_) => {}
            None => comparison.found(name, "the schema is gone"),
        }
    }
    comparison.into_found()
}

fn compare<'a>(c: &mut Comparison<'a>, old: &'a Value, new: &'a Value, at: &str) {
    if old["operationId"] != new["operationId"] {
        let was = &old["operationId"];
        c.found(at, &format!("the operationId was {was} and is {}", new["operationId"]));
    }
    let right = &old["x-qga-right"];
    if right != &new["x-qga-right"] && !new["x-qga-right"].is_null() {
        c.found(at, &format!("the right that it needs was {right} and is {}", new["x-qga-right"]));
    }
    if is_public(old) && !is_public(new) {
        c.found(at, "needs credentials now");
    }
    parameters(c, old, new, at);
    body(c, old.get("requestBody"), new.get("requestBody"), at);
    for (status, answer) in members(&old["responses"]) {
        match new["responses"].get(status) {
            Some(now) => self::answer(c, answer, now, &format!("{at} {status}")),
            None => c.found(at, &format!("answer {status} is gone")),
        }
    }
}

fn is_public(operation: &Value) -> bool {
    operation.get("security").is_some()
}

fn parameters(c: &mut Comparison<'_>, old: &Value, new: &Value, at: &str) {
    let before = by_name(old);
    let now = by_name(new);
    for (name, parameter) in &before {
        let at = format!("{at} {name}");
        let Some(now) = now.get(name) else {
            c.found(&at, "the parameter is gone");
            continue;
        };
        if now["required"] == true && parameter["required"] != true {
            c.found(&at, "the parameter is required now");
        }
        c.schema(&parameter["schema"], &now["schema"], Way::Request, &at);
    }
    for (name, parameter) in now {
        if parameter["required"] == true && !before.contains_key(&name) {
            c.found(&format!("{at} {name}"), "a new parameter is required");
        }
    }
}

/// Parameters by where they are and what they are called.
fn by_name(operation: &Value) -> BTreeMap<String, &Value> {
    let list = operation["parameters"].as_array().into_iter().flatten();
    list.map(|p| (format!("{}:{}", text(&p["in"]), text(&p["name"])), p)).collect()
}

fn body(c: &mut Comparison<'_>, old: Option<&Value>, new: Option<&Value>, at: &str) {
    let at = &format!("{at} request");
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (Some(_), None) => return c.found(at, "takes no body any more"),
        (None, Some(new)) if new["required"] == true => return c.found(at, "needs a body now"),
        (None, _) => return,
    };
    if new["required"] == true && old["required"] != true {
        c.found(at, "the body is required now");
    }
    content(c, old, new, Way::Request, at);
}

fn answer<'a>(c: &mut Comparison<'a>, old: &'a Value, new: &'a Value, at: &str) {
    let (old, new) = (c.resolve_old(old), c.resolve_new(new));
    for (name, _) in members(&old["headers"]) {
        if new["headers"].get(name).is_none() {
            c.found(at, &format!("header {name} is gone"));
        }
    }
    content(c, old, new, Way::Answer, at);
}

fn content(c: &mut Comparison<'_>, old: &Value, new: &Value, way: Way, at: &str) {
    for (kind, media) in members(&old["content"]) {
        match new["content"].get(kind) {
            Some(now) => c.schema(schema_of(media), schema_of(now), way, at),
            None => c.found(at, &format!("{kind} is gone")),
        }
    }
}

/// Without a schema, any bytes.
fn schema_of(media: &Value) -> &Value {
    media.get("schema").unwrap_or(&Value::Null)
}

pub(super) fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
