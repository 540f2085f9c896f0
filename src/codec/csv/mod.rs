//! CSV, a row a record of RFC 4180, its columns found by the names in a header line.
//!
//! **Reading.** A column of the schema that the header does not name is null; fields that the schema does not have are
//! ignored. An empty field is null, and so is one with the null text (such as `NA`), in text columns too; in quotes they are
//! meant: `""` is the empty text, `"NA"` the text NA. In other columns than text an empty field in quotes is null as well.
//! Space belongs to the field. Values are as strict as those of JSON (see `codec::value`), `true` and `false` in any case.
//!
//! A row with another number of fields than the header, with text behind a closing quote, without a closing quote or that is
//! not UTF-8 is a reject of class `Decode`; one with a value that its column cannot hold, or with a null where the column
//! must have a value, of class `Contract`.
//!
//! **Writing.** A header line, then a record a row, lines ended by `\n`. A null is an empty field and the empty text `""`,
//! so that what is read back is the same row. Lists and structs are written as JSON.

mod decode;
mod encode;
mod fields;

use arrow::datatypes::DataType;

pub use decode::Decoder;
pub use encode::Encoder;

/// Why no rows can be read under a header line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no way between CSV and the type of a column.
    #[error("column `{column}` is of type {data_type}, which CSV cannot be read as")]
    Unsupported {
        /// Which column.
        column: String,
        /// Its type.
        data_type: DataType,
    },
    /// The header line itself is malformed.
    #[error("the header line is malformed: {problem}")]
    Header {
        /// How.
        problem: String,
    },
    /// The header line names a column of the schema twice.
    #[error("the header line names column `{column}` twice")]
    Duplicate {
        /// Which column.
        column: String,
    },
}

#[cfg(test)]
mod tests;
