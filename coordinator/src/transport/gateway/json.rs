//! JSON in which no member is given twice: a reader that takes the last one, as most do, and another one that takes the first
//! would not see the same order.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads an object.
///
/// # Errors
/// It is none, or a member stands in it, or in an object within, twice.
pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let object = reader.deserialize_map(Object)?;
    reader.end()?;
    Ok(object)
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = given.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(A::Error::custom(format_args!("{name:?} is given twice")));
            }
            members.insert(name, given.next_value_seed(Any)?);
        }
        Ok(members)
    }
}

struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, given: bool) -> Result<Value, E> {
        Ok(given.into())
    }

    fn visit_u64<E>(self, given: u64) -> Result<Value, E> {
        Ok(given.into())
    }

    fn visit_i64<E>(self, given: i64) -> Result<Value, E> {
        Ok(given.into())
    }

    fn visit_f64<E>(self, given: f64) -> Result<Value, E> {
        Ok(given.into())
    }

    fn visit_str<E>(self, given: &str) -> Result<Value, E> {
        Ok(given.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut given: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = given.next_element_seed(Any)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, given: A) -> Result<Value, A::Error> {
        Object.visit_map(given).map(Value::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_json() {
        let text = r#"{"a": [null, true, -1, 18446744073709551615, 1.5, "\u00e9", {"a": {}}], "b": 2}"#;
        let expected: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(object(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn nothing_is_given_twice_however_deep() {
        for text in [r#"{"a": 1, "a": 1}"#, r#"{"b": [{"a": 1, "\u0061": 2}]}"#, r#"{"b": {"a": 1, "a": 2}}"#]
        {
            let error = object(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("\"a\" is given twice at line 1 column"), "{error}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(1_000), "]".repeat(1_000));
        for text in
            ["", "[]", "1", "{} {}", "{\"a\"}", "{\"a\": 1e999}", "{\"a\": NaN}", "{\"a\": \"\u{0}\"}", &deep]
        {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
        assert!(object(b"{\"a\": \"\xff\"}").is_err());
    }
}
