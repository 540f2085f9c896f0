//! JSON, a row an object.
//!
//! **Reading.** A row is one object, by RFC 8259 to the letter, and nothing else. Members that the schema does not have are
//! ignored, however deep they are nested; of members of the same name the last one counts. A column that is missing is null.
//! * `text` takes strings; an object or a list is taken as the text it is, for the functions for JSON in text.
//! * Numbers are taken by number columns, also out of a string (`"12"`, as 64-bit integers are often written), and only if
//!   the column's type has exactly that value (see `codec::value`). Doubles can be `"NaN"`, `"Infinity"`, `"-Infinity"`, as
//!   in the JSON mapping of protobuf.
//! * `timestamp`, `date`, `time` and `interval` take strings; a number of seconds, or is it milliseconds, is refused.
//! * `bytea` takes a string of hexadecimal digits.
//!
//! A row that is not such an object, not UTF-8, or has half a surrogate pair is a reject of class `Decode`; one with a value
//! that its column cannot hold, or with a null or nothing where the column must have a value, of class `Contract`.
//!
//! **Writing.** Every column of every row, nulls too, in the order of the schema; instants in UTC by RFC 3339; what is read
//! back from it is the same row.
//!
//! arrow-json, which could do the reading, would take `1.5` for the integer 1, `1e400` for infinity and `{"a":1,,}` for JSON.

mod decode;
mod encode;
mod scan;

use arrow::datatypes::DataType;

pub use decode::Decoder;
pub(super) use encode::VALUE_OPTIONS;
pub use encode::{Encoder, rows_to_text, rows_to_values};

/// There is no way between JSON and the type of a column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column `{column}` is of type {data_type}, which JSON cannot be read as")]
pub struct Unsupported {
    /// Which column.
    pub column: String,
    /// Its type.
    pub data_type: DataType,
}

#[cfg(test)]
mod tests;
