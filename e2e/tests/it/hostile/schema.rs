//! Whether a JSON value is what an OpenAPI document says: as much of JSON Schema as ours uses.

use serde_json::Value;

/// The document, to which `$ref` leads.
#[derive(Clone, Copy)]
pub(super) struct Schemas<'a>(pub(super) &'a Value);

impl<'a> Schemas<'a> {
    /// Why the value is none that the schema allows; `None` if it is one.
    pub(super) fn why_not(self, schema: &'a Value, value: &Value) -> Option<String> {
        let schema = self.follow(schema);
        self.type_of(schema, value)
            .or_else(|| self.choices(schema, value))
            .or_else(|| self.object(schema, value))
            .or_else(|| self.list(schema, value))
    }

    /// Where references lead in the end.
    pub(super) fn follow(self, schema: &'a Value) -> &'a Value {
        let Some(reference) = schema["$ref"].as_str() else { return schema };
        let pointer = reference.strip_prefix('#').expect("within the document");
        self.follow(self.0.pointer(pointer).unwrap_or_else(|| panic!("no {reference}")))
    }

    fn type_of(self, schema: &Value, value: &Value) -> Option<String> {
        let is = |name: &Value| match name.as_str().expect("a name") {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("no type {other}"),
        };
        let right = match &schema["type"] {
            Value::Null => true,
            Value::Array(names) => names.iter().any(is),
            name => is(name),
        };
        let right = right && schema["enum"].as_array().is_none_or(|all| all.contains(value));
        let least = schema["minimum"].as_i64().zip(value.as_i64());
        let right = right && least.is_none_or(|(least, value)| least <= value);
        (!right).then(|| format!("{value} is not {schema}"))
    }

    fn choices(self, schema: &'a Value, value: &Value) -> Option<String> {
        for all in schema["allOf"].as_array().into_iter().flatten() {
            if let Some(why) = self.why_not(all, value) {
                return Some(why);
            }
        }
        let of = |name: &str| schema[name].as_array();
        let ways = of("oneOf").or_else(|| of("anyOf"))?;
        let whys: Option<Vec<String>> = ways.iter().map(|way| self.why_not(way, value)).collect();
        whys.map(|whys| whys.join("; and "))
    }

    fn object(self, schema: &'a Value, value: &Value) -> Option<String> {
        let value = value.as_object()?;
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().expect("a name");
            if !value.contains_key(name) {
                return Some(format!("no {name}"));
            }
        }
        let known = schema["properties"].as_object();
        value.iter().find_map(|(name, value)| {
            let others = schema.get("additionalProperties").filter(|others| others.is_object());
            let schema = known.and_then(|known| known.get(name)).or(others)?;
            self.why_not(schema, value).map(|why| format!("{name}: {why}"))
        })
    }

    fn list(self, schema: &'a Value, value: &Value) -> Option<String> {
        let (items, value) = (schema.get("items")?, value.as_array()?);
        let wrong = |(at, value)| self.why_not(items, value).map(|why| format!("[{at}]: {why}"));
        value.iter().enumerate().find_map(wrong)
    }
}
