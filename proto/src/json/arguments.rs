//! Reads arguments into their types, with QEMU's checks in QEMU's order and words.
//!
//! serde's derive asks a struct for the members that it finds; QEMU's visitors ask the object
//! for the members that they want. So [`Members`] offers the fields in the order of the
//! schema, the absent ones as [`Absent`], and complains of what is left over at the end.

use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::lexer::TokenKind;
use super::text::Value;
use crate::error::QgaError;

/// Reads an object of arguments.
pub(crate) fn read<T: de::DeserializeOwned>(arguments: Option<Value<'_>>) -> Result<T, QgaError> {
    let root = Argument { value: arguments, path: &Path::Root, alternate: None };
    T::deserialize(root).map_err(|error| QgaError::generic(error.resolve(&Path::Root)))
}

/// Where in the arguments a value stands, as QEMU prints it: `vcpus[0].online`.
enum Path<'p> {
    Root,
    Member(&'p Self, &'p str),
    Element(&'p Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Path::Root, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// What is wrong; serde makes some of these without knowing where it is.
#[derive(Debug)]
enum ArgumentError {
    Text(String),
    /// A value that an enumeration does not have.
    Value(String),
    /// A value of another type than this one.
    Type(&'static str),
    /// A value of a type that the visitor does not take.
    Unwanted,
}

impl ArgumentError {
    fn resolve(self, path: &Path<'_>) -> String {
        match self {
            Self::Text(text) => text,
            Self::Unwanted => format!("Invalid parameter type for '{path}'"),
            Self::Value(value) => format!("Parameter '{path}' does not accept value '{value}'"),
            Self::Type(expected) => {
                format!("Invalid parameter type for '{path}', expected: {expected}")
            }
        }
    }

    /// An alternate is called by its own name in type errors.
    fn in_alternate(self, name: &'static str) -> Self {
        if matches!(self, Self::Unwanted) { Self::Type(name) } else { self }
    }

    fn located(self, path: &Path<'_>) -> Self {
        Self::Text(self.resolve(path))
    }
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Value(text) => f.write_str(text),
            Self::Type(expected) => f.write_str(expected),
            Self::Unwanted => f.write_str("another type"),
        }
    }
}

impl std::error::Error for ArgumentError {}

impl de::Error for ArgumentError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::Text(text.to_string())
    }

    fn unknown_variant(variant: &str, _: &'static [&'static str]) -> Self {
        Self::Value(variant.to_owned())
    }

    fn invalid_type(_: Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::Unwanted
    }

    /// A number that an integer cannot hold.
    fn invalid_value(_: Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::Type("integer")
    }
}

/// A value on its way into a type; `None` if the member is absent.
#[derive(Clone, Copy)]
struct Argument<'de, 'p> {
    value: Option<Value<'de>>,
    path: &'p Path<'p>,
    /// The name of the alternate that the value is for, which QEMU puts into type errors.
    alternate: Option<&'static str>,
}

impl<'de, 'p> Argument<'de, 'p> {
    fn present(&self) -> Result<Value<'de>, ArgumentError> {
        self.value
            .ok_or_else(|| ArgumentError::Text(format!("Parameter '{}' is missing", self.path)))
    }

    fn wrong_type(&self, expected: &'static str) -> ArgumentError {
        ArgumentError::Type(self.alternate.unwrap_or(expected)).located(self.path)
    }

    /// Integers are i64, else u64, else not integers any more.
    fn integer<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        let value = self.present()?;
        let text = std::str::from_utf8(value.raw()).unwrap_or_default();
        let read: Result<_, ArgumentError> = match (value.kind(), text.parse(), text.parse()) {
            (TokenKind::Integer, Ok(number), _) => visitor.visit_i64(number),
            (TokenKind::Integer, Err(_), Ok(number)) => visitor.visit_u64(number),
            _ => return Err(self.wrong_type("integer")),
        };
        read.map_err(|error| match error {
            ArgumentError::Type(_) => error.located(self.path),
            _ => self.wrong_type("integer"),
        })
    }

    /// QEMU has words of its own for what is none of these.
    fn unsigned<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        self.present()?;
        let refused = || ArgumentError::Text(format!("Parameter '{}' expects uint64", self.path));
        self.integer(visitor).map_err(|_| refused())
    }

    fn string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        let string = self.present()?.string().ok_or_else(|| self.wrong_type("string"))?;
        let read = match string {
            std::borrow::Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            std::borrow::Cow::Owned(text) => visitor.visit_string(text),
        };
        read.map_err(|error: ArgumentError| error.located(self.path))
    }

    fn boolean<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        match self.present()?.raw() {
            b"true" => visitor.visit_bool(true),
            b"false" => visitor.visit_bool(false),
            _ => Err(self.wrong_type("boolean")),
        }
    }

    #[inline(never)]
    fn members(self, fields: &'static [&'static str]) -> Result<Members<'de, 'p>, ArgumentError> {
        let mut members = Vec::new();
        match self.value {
            Some(value) if value.is_object() => members.extend(value.members()),
            // Absent arguments are `{}`; an absent member of them is missing.
            None if matches!(self.path, Path::Root) => {}
            None => return Err(self.present().err().unwrap_or(ArgumentError::Type("object"))),
            Some(_) => return Err(self.wrong_type("object")),
        }
        Ok(Members { fields: fields.iter(), members, current: None, path: self.path })
    }

    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        let value = self.present()?;
        let text = std::str::from_utf8(value.raw()).unwrap_or_default();
        match (value.kind(), text.parse()) {
            (TokenKind::Integer | TokenKind::Float, Ok(number)) => {
                visitor.visit_f64(number).map_err(|error: ArgumentError| match error {
                    ArgumentError::Unwanted => self.wrong_type("integer"),
                    error => error.located(self.path),
                })
            }
            _ => Err(self.wrong_type("number")),
        }
    }
}

macro_rules! read_as {
    ($how:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
            self.$how(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Argument<'de, '_> {
    type Error = ArgumentError;

    read_as!(integer: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32);
    read_as!(unsigned: deserialize_u64);
    read_as!(number: deserialize_f32 deserialize_f64);
    read_as!(string: deserialize_str deserialize_string deserialize_char deserialize_bytes
        deserialize_byte_buf deserialize_identifier);
    read_as!(boolean: deserialize_bool);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        match self.present()?.kind() {
            TokenKind::Integer => self.integer(visitor),
            TokenKind::Float => self.number(visitor),
            TokenKind::String => self.string(visitor),
            TokenKind::Keyword => self.boolean(visitor),
            TokenKind::ObjectStart if self.alternate.is_none() => {
                self.deserialize_struct("", &[], visitor)
            }
            TokenKind::ArrayStart if self.alternate.is_none() => self.deserialize_seq(visitor),
            _ => Err(self.wrong_type("string")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        // `null` is a value of the wrong type, not an absent one.
        if self.value.is_some() { visitor.visit_some(self) } else { visitor.visit_none() }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        self.present()?;
        visitor
            .visit_newtype_struct(Self { alternate: Some(name), ..self })
            .map_err(|error: ArgumentError| error.in_alternate(name).located(self.path))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentError> {
        let value = self.present()?;
        if value.kind() != TokenKind::ArrayStart {
            return Err(self.wrong_type("array"));
        }
        visitor.visit_seq(Elements {
            elements: value.elements().enumerate().collect::<Vec<_>>().into_iter(),
            path: self.path,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        let mut access = self.members(fields)?;
        let read = visitor.visit_map(&mut access)?;
        access.finish()?;
        Ok(read)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ArgumentError> {
        let name = self.present()?.string().ok_or_else(|| self.wrong_type("string"))?;
        if !variants.contains(&&*name) {
            return Err(ArgumentError::Value(name.into_owned()).located(self.path));
        }
        visitor.visit_enum(Variant(name))
    }

    forward_to_deserialize_any! { i128 u128 unit unit_struct tuple tuple_struct map ignored_any }
}

/// What its methods do is in the program once, or once per type of a member, and not once per
/// member: there are hundreds, and the agent is to stay small.
struct Members<'de, 'p> {
    fields: std::slice::Iter<'static, &'static str>,
    /// Not asked for yet.
    members: Vec<(std::borrow::Cow<'de, str>, Value<'de>)>,
    current: Option<(&'static str, Option<Value<'de>>)>,
    path: &'p Path<'p>,
}

impl Members<'_, '_> {
    /// The next field, which becomes the current one.
    #[inline(never)]
    fn advance(&mut self) -> Option<&'static str> {
        let &field = self.fields.next()?;
        let at = self.members.iter().position(|(name, _)| name == field);
        self.current = Some((field, at.map(|at| self.members.remove(at).1)));
        Some(field)
    }

    #[inline(never)]
    fn finish(self) -> Result<(), ArgumentError> {
        match self.members.first() {
            Some((name, _)) => {
                let path = Path::Member(self.path, name);
                Err(ArgumentError::Text(format!("Parameter '{path}' is unexpected")))
            }
            None => Ok(()),
        }
    }
}

impl<'de> MapAccess<'de> for &mut Members<'de, '_> {
    type Error = ArgumentError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ArgumentError> {
        let Some(field) = self.advance() else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(field)).map(Some)
    }

    #[inline(never)]
    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ArgumentError> {
        // serde asks for a value only after its key.
        let (field, value) = self.current.take().unwrap_or(("", None));
        let path = Path::Member(self.path, field);
        seed.deserialize(Argument { value, path: &path, alternate: None })
            .map_err(|error| error.located(&path))
    }
}

struct Elements<'de, 'p> {
    elements: std::vec::IntoIter<(usize, Value<'de>)>,
    path: &'p Path<'p>,
}

impl<'de> SeqAccess<'de> for Elements<'de, '_> {
    type Error = ArgumentError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ArgumentError> {
        let Some((index, value)) = self.elements.next() else { return Ok(None) };
        let path = Path::Element(self.path, index);
        seed.deserialize(Argument { value: Some(value), path: &path, alternate: None })
            .map(Some)
            .map_err(|error| error.located(&path))
    }
}

/// An enumeration's value: a name and nothing else.
struct Variant<'de>(std::borrow::Cow<'de, str>);

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = ArgumentError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), ArgumentError> {
        let name = seed.deserialize(StrDeserializer::new(&self.0))?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = ArgumentError;

    fn unit_variant(self) -> Result<(), ArgumentError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        _: T,
    ) -> Result<T::Value, ArgumentError> {
        Err(ArgumentError::Value(self.0.into_owned()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, ArgumentError> {
        Err(ArgumentError::Value(self.0.into_owned()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, ArgumentError> {
        Err(ArgumentError::Value(self.0.into_owned()))
    }
}

#[cfg(test)]
mod tests;
