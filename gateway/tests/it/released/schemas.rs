//! Schemas: what a request may hold must not become less, what an answer may hold not more.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value, json};

use super::operations::{members, text};

/// Who writes what a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// The client, which knows the old schema only.
    Request,
    /// The gateway.
    Answer,
}

/// Two documents, and what was found so far.
#[derive(Clone)]
pub(super) struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
    found: Vec<String>,
    /// Schemas with references that were compared, or are being compared: they may hold themselves.
    seen: HashSet<(String, String, Way)>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(old: &'a Value, new: &'a Value) -> Self {
        Self { old, new, found: Vec::new(), seen: HashSet::new() }
    }

    pub(super) fn found(&mut self, at: &str, what: &str) {
        self.found.push(format!("{at}: {what}"));
    }

    pub(super) fn into_found(self) -> Vec<String> {
        self.found
    }

    /// Whether the old schema of this name was compared.
    pub(super) fn knows(&self, name: &str) -> bool {
        let reference = format!("\"#/components/schemas/{name}\"");
        self.seen.iter().any(|(old, ..)| old.contains(&reference))
    }

    pub(super) fn resolve_old(&self, value: &'a Value) -> &'a Value {
        resolve(self.old, value)
    }

    pub(super) fn resolve_new(&self, value: &'a Value) -> &'a Value {
        resolve(self.new, value)
    }

    pub(super) fn schema(&mut self, old: &Value, new: &Value, way: Way, at: &str) {
        let (before, now) = (old.to_string(), new.to_string());
        if before.contains("\"$ref\"") && !self.seen.insert((before, now, way)) {
            return;
        }
        if let (Some(old), Some(new)) = (or_null(old), or_null(new)) {
            return self.schema(old, new, way, at);
        }
        let before = variants(self.old, old);
        let now = variants(self.new, new);
        if let ([before], [now]) = (before.as_slice(), now.as_slice()) {
            return self.plain(before, now, way, at);
        }
        // Each that may be written must be among those that are read.
        let (written, read) = match way {
            Way::Request => (&before, &now),
            Way::Answer => (&now, &before),
        };
        for (index, variant) in written.iter().enumerate() {
            let differences = |other: &Value| {
                let mut trial = Self { found: Vec::new(), ..self.clone() };
                match way {
                    Way::Request => trial.plain(variant, other, way, at),
                    Way::Answer => trial.plain(other, variant, way, at),
                }
                trial.found
            };
            let all: Vec<Vec<String>> = read.iter().map(differences).collect();
            if all.iter().any(Vec::is_empty) {
                continue;
            }
            match all.into_iter().nth(index).filter(|_| written.len() == read.len()) {
                Some(differences) => self.found.extend(differences),
                None if way == Way::Request => self.found(at, "one of several forms is gone"),
                None => self.found(at, "has a form that it had not"),
            }
        }
    }

    /// Of schemas without variants.
    fn plain(&mut self, old: &Value, new: &Value, way: Way, at: &str) {
        let (before, now) = (types(old), types(new));
        let fits = match way {
            Way::Request => before.is_subset(&now),
            Way::Answer => now.is_subset(&before),
        };
        if !fits {
            self.found(at, &format!("the type was {} and is {}", show(&before), show(&now)));
        }
        self.words(old, new, at);
        for name in ["format", "pattern", "contentEncoding"] {
            if old[name] != new[name] && !(way == Way::Request && new[name].is_null()) {
                let (was, is) = (&old[name], &new[name]);
                self.found(at, &format!("{name} was {was} and is {is}"));
            }
        }
        if way == Way::Request {
            self.bounds(old, new, at);
        }
        self.properties(old, new, way, at);
        if let (Some(before), Some(now)) = (old.get("items"), new.get("items")) {
            self.schema(before, now, way, &format!("{at}[]"));
        }
        match (old.get("additionalProperties"), new.get("additionalProperties")) {
            (Some(before @ Value::Object(_)), Some(now @ Value::Object(_))) => {
                self.schema(before, now, way, &format!("{at}.*"));
            }
            (Some(Value::Bool(false)), _) => {}
            (_, Some(Value::Bool(false))) if way == Way::Request => {
                self.found(at, "takes only members that it lists now");
            }
            _ => {}
        }
    }

    /// A word that was in a list stays there, whoever writes it: one that an answer does not have
    /// any more has been renamed.
    fn words(&mut self, old: &Value, new: &Value, at: &str) {
        match (words(old), words(new)) {
            (Some(before), Some(now)) => {
                for word in before.difference(&now) {
                    self.found(at, &format!("{word} is not in the list any more"));
                }
            }
            (Some(_), None) => self.found(at, "was one of a list and is not any more"),
            (None, Some(_)) => self.found(at, "is one of a list now"),
            (None, None) => {}
        }
    }

    fn bounds(&mut self, old: &Value, new: &Value, at: &str) {
        for name in ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"] {
            let Some(now) = new[name].as_f64() else { continue };
            if old[name].as_f64().is_none_or(|before| before < now) {
                self.found(at, &format!("{name} was {} and is {}", old[name], new[name]));
            }
        }
        for name in ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"] {
            let Some(now) = new[name].as_f64() else { continue };
            if old[name].as_f64().is_none_or(|before| before > now) {
                self.found(at, &format!("{name} was {} and is {}", old[name], new[name]));
            }
        }
    }

    fn properties(&mut self, old: &Value, new: &Value, way: Way, at: &str) {
        for (name, before) in members(&old["properties"]) {
            match new["properties"].get(name) {
                Some(now) => self.schema(before, now, way, &format!("{at}.{name}")),
                None => self.found(&format!("{at}.{name}"), "the member is gone"),
            }
        }
        let (before, now) = (required(old), required(new));
        match way {
            Way::Request => {
                for name in now.difference(&before) {
                    self.found(&format!("{at}.{name}"), "the member is required now");
                }
            }
            Way::Answer => {
                for name in before.difference(&now) {
                    self.found(&format!("{at}.{name}"), "the member may be absent now");
                }
            }
        }
    }
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or(value),
        None => value,
    }
}

/// What there is besides null.
fn or_null(schema: &Value) -> Option<&Value> {
    match schema["oneOf"].as_array()?.as_slice() {
        [other, null] | [null, other] if null["type"] == "null" => Some(other),
        _ => None,
    }
}

/// The forms of a schema: one, unless it has `oneOf` or `anyOf`. References are followed, `allOf` is
/// one schema, and a type that may be `null` stays one.
fn variants(document: &Value, schema: &Value) -> Vec<Value> {
    let schema = whole(document, schema);
    let Some(list) = schema.get("oneOf").or_else(|| schema.get("anyOf")) else {
        return vec![schema];
    };
    let forms = list.as_array().into_iter().flatten();
    let mut forms: Vec<Value> = forms.flat_map(|form| variants(document, form)).collect();
    // `oneOf` of something and null is the same as that with a type more.
    let null = forms.iter().position(|form| form["type"] == "null");
    if let (Some(null), 2) = (null, forms.len()) {
        forms.remove(null);
        let mut form = forms.remove(0);
        let mut types = types(&form);
        types.insert("null".to_owned());
        form["type"] = json!(types);
        return vec![form];
    }
    forms
}

/// The schema itself, with the parts of its `allOf`.
fn whole(document: &Value, schema: &Value) -> Value {
    let schema = resolve(document, schema);
    let mut sum = schema.as_object().cloned().unwrap_or_default();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let Value::Object(part) = whole(document, part) else { continue };
        for (key, value) in part {
            add(&mut sum, key, value);
        }
    }
    sum.remove("allOf");
    sum.into()
}

fn add(sum: &mut Map<String, Value>, key: String, value: Value) {
    let Some(there) = sum.get_mut(&key) else {
        sum.insert(key, value);
        return;
    };
    match (there, value) {
        (Value::Object(sum), Value::Object(more)) => sum.extend(more),
        (Value::Array(sum), Value::Array(more)) => sum.extend(more),
        _ => {}
    }
}

/// Every type, unless some are named. An integer is a number.
fn types(schema: &Value) -> BTreeSet<String> {
    const ALL: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];
    let named = match &schema["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().map(text).collect(),
        _ => ALL.to_vec(),
    };
    let mut types: BTreeSet<String> = named.into_iter().map(str::to_owned).collect();
    if types.contains("number") {
        types.insert("integer".to_owned());
    }
    types
}

fn show(types: &BTreeSet<String>) -> String {
    types.iter().map(String::as_str).collect::<Vec<_>>().join("|")
}

fn words(schema: &Value) -> Option<BTreeSet<String>> {
    let one = schema.get("const").map(std::slice::from_ref);
    let list = schema["enum"].as_array().map(Vec::as_slice).or(one)?;
    Some(list.iter().map(Value::to_string).collect())
}

fn required(schema: &Value) -> BTreeSet<&str> {
    schema["required"].as_array().into_iter().flatten().map(text).collect()
}
