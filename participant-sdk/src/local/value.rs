//! Values for and from a database, the same for every driver.

/// A value for or from the database.
///
/// Columns of other types are read by a `CAST` in the query, for example `CAST(created_at AS CHAR)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SqlValue {
    /// NULL.
    #[default]
    Null,
    /// An integer.
    Int(i64),
    /// An integer of an `UNSIGNED` column.
    UInt(u64),
    /// A string, or a `DECIMAL` in digits: `SUM` of integers is one.
    Text(String),
    /// A binary string.
    Bytes(Vec<u8>),
}

impl SqlValue {
    /// The value as an integer; in digits too, as a `DECIMAL` comes. None when it is none or does not fit.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            SqlValue::Int(value) => Some(*value),
            SqlValue::UInt(value) => i64::try_from(*value).ok(),
            SqlValue::Text(text) => text.parse().ok(),
            SqlValue::Null | SqlValue::Bytes(_) => None,
        }
    }

    /// As [`SqlValue::as_i64`], without a sign.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            SqlValue::Int(value) => u64::try_from(*value).ok(),
            SqlValue::UInt(value) => Some(*value),
            SqlValue::Text(text) => text.parse().ok(),
            SqlValue::Null | SqlValue::Bytes(_) => None,
        }
    }

    /// The string. None when it is none.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            SqlValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of a binary string or of a string. None when it is neither.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            SqlValue::Text(text) => Some(text.as_bytes()),
            SqlValue::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, SqlValue::Null)
    }
}

macro_rules! from_integers {
    ($($variant:ident($wide:ty): $($narrow:ty)*;)*) => {$($(
        impl From<$narrow> for SqlValue {
            fn from(value: $narrow) -> Self {
                SqlValue::$variant(<$wide>::from(value))
            }
        }
    )*)*};
}

from_integers! {
    Int(i64): i8 i16 i32 i64 bool;
    UInt(u64): u8 u16 u32 u64;
}

impl From<&str> for SqlValue {
    fn from(value: &str) -> Self {
        SqlValue::Text(value.to_owned())
    }
}

impl From<String> for SqlValue {
    fn from(value: String) -> Self {
        SqlValue::Text(value)
    }
}

impl From<&String> for SqlValue {
    fn from(value: &String) -> Self {
        SqlValue::Text(value.clone())
    }
}

impl From<Vec<u8>> for SqlValue {
    fn from(value: Vec<u8>) -> Self {
        SqlValue::Bytes(value)
    }
}

impl From<&[u8]> for SqlValue {
    fn from(value: &[u8]) -> Self {
        SqlValue::Bytes(value.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for SqlValue {
    fn from(value: [u8; N]) -> Self {
        SqlValue::Bytes(value.to_vec())
    }
}

impl From<bytes::Bytes> for SqlValue {
    fn from(value: bytes::Bytes) -> Self {
        SqlValue::Bytes(value.into())
    }
}

impl<T: Into<SqlValue>> From<Option<T>> for SqlValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(SqlValue::Null, Into::into)
    }
}
