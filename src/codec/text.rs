//! Values as plain text, for CSV and for keys: as JSON has them, without the quotes of a JSON string.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::json::writer::{NullableEncoder, make_encoder};

use super::json::VALUE_OPTIONS;

/// The values of a column.
pub(crate) enum Values<'a> {
    /// Text, as it is.
    Text(&'a ArrayRef),
    /// Lists and structs, as JSON.
    Nested(NullableEncoder<'a>),
    /// What has no special characters in it.
    Plain(NullableEncoder<'a>),
}

impl<'a> Values<'a> {
    /// The values of that column.
    pub fn new(field: &'a FieldRef, array: &'a ArrayRef) -> Result<Self, ArrowError> {
        Ok(match array.data_type() {
            DataType::Utf8 => Values::Text(array),
            nested if nested.is_nested() => Values::Nested(make_encoder(field, array, &VALUE_OPTIONS)?),
            _ => Values::Plain(make_encoder(field, array, &VALUE_OPTIONS)?),
        })
    }

    /// Whether the row has none.
    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Values::Text(array) => array.is_null(row),
            Values::Nested(values) | Values::Plain(values) => values.is_null(row),
        }
    }

    /// Appends the value of that row, which is not null.
    pub fn push(&mut self, row: usize, to: &mut Vec<u8>) {
        match self {
            Values::Text(array) => to.extend_from_slice(array.as_string::<i32>().value(row).as_bytes()),
            Values::Nested(values) => values.encode(row, to),
            Values::Plain(values) => {
                let start = to.len();
                values.encode(row, to);
                if to.get(start) == Some(&b'"') {
                    to.pop();
                    to.remove(start);
                }
            }
        }
    }
}
