//! Schemas in the form that generators of clients can read. It says the same as before.

use serde_json::{Map, Value, json};

/// Gives each form of a tagged union a name, and says by which member they are told apart.
pub(super) fn name_forms(schemas: &mut Map<String, Value>) {
    let mut named = Map::new();
    for (name, schema) in schemas.iter_mut() {
        let Some(Value::Array(forms)) = schema.get_mut("oneOf") else { continue };
        let tags: Vec<String> = forms.iter().filter_map(tag).collect();
        if tags.len() != forms.len() {
            continue;
        }
        let mut mapping = Map::new();
        for (form, tag) in forms.iter_mut().zip(tags) {
            let of = format!("{name}{}", capital(&tag));
            let reference = format!("#/components/schemas/{of}");
            mapping.insert(tag, reference.clone().into());
            named.insert(of, std::mem::replace(form, json!({"$ref": reference})));
        }
        schema["discriminator"] = json!({"propertyName": "type", "mapping": mapping});
    }
    schemas.append(&mut named);
}

/// The one value that `type` has in a form.
fn tag(form: &Value) -> Option<String> {
    let parts = form["allOf"].as_array().map_or_else(|| std::slice::from_ref(form), Vec::as_slice);
    let mut tags = parts.iter().map(|part| &part["properties"]["type"]["enum"]);
    let words = tags.find_map(Value::as_array)?;
    Some(words.first()?.as_str()?.to_owned())
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// A body of bytes is one string of them, and no list of numbers.
pub(super) fn bytes(operation: &mut Value) {
    if let Some(body) = operation.get_mut("requestBody") {
        bytes_of(body);
    }
    let answers = operation.get_mut("responses").and_then(Value::as_object_mut);
    answers.into_iter().flat_map(Map::values_mut).for_each(bytes_of);
}

fn bytes_of(body: &mut Value) {
    let media = body.pointer_mut("/content/application~1octet-stream");
    if let Some(media) = media {
        media["schema"] = json!({"type": "string", "format": "binary"});
    }
}
