//! JSON for a guest, from a caller: nothing that an agent's parser would refuse.
//!
//! What the parser refuses is answered without an `id` (qga-facts.md 1.2), so that nobody could tell
//! whose error it is. A member that stands twice is such a thing, and so is deep nesting.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A JSON value without a member twice, nested at most as `serde_json` allows (128).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strict(Value);

/// A JSON object of that kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct StrictObject(Map<String, Value>);

impl StrictObject {
    /// On one line, as it goes to the guest.
    pub(super) fn text(&self) -> String {
        // Maps with string keys: their serialization cannot fail.
        serde_json::to_string(&self.0).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for StrictObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Strict::deserialize(deserializer)?.0 {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(D::Error::custom("invalid type: expected an object of arguments")),
        }
    }
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Self)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, _>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate member `{name}`")));
            }
            map.insert(name, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_values_and_refuses_what_stands_twice() {
        for text in [r#"{"a":1,"b":[-1,18446744073709551615,1.5,"é\n\u0000",null,true,{}]}"#, "{}"]
        {
            let object: StrictObject = serde_json::from_str(text).unwrap();
            let back: Value = serde_json::from_str(&object.text()).unwrap();
            assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
            assert!(!object.text().contains('\n'));
        }
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"x":[{"a":1,"\u0061":2}]}"#,
            "[]",
            "null",
            "1",
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
        ] {
            assert!(serde_json::from_str::<StrictObject>(bad).is_err(), "{bad}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(serde_json::from_str::<StrictObject>(&deep).is_err());
    }
}
