//! Columns to CSV records. A value is written as JSON would write it, without the quotes of a JSON string.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::EncoderOptions;
use arrow::json::writer::{NullableEncoder, make_encoder};
use arrow::record_batch::RecordBatch;
use bytes::{BufMut, Bytes};

use crate::codec::{self, Text, json};

/// Encodes rows as CSV records, one a line unless text in them has line ends.
#[derive(Debug, Clone)]
pub struct Encoder {
    schema: SchemaRef,
    options: EncoderOptions,
}

impl Encoder {
    /// For rows of that schema.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, options: json::value_options() }
    }
}

impl codec::Encoder for Encoder {
    fn head(&self) -> Bytes {
        let mut line = Vec::new();
        for (index, field) in self.schema.fields().iter().enumerate() {
            if index > 0 {
                line.push(b',');
            }
            push_text(field.name().as_bytes(), &mut line);
        }
        line.push(b'\n');
        line.into()
    }

    fn encode(&mut self, batch: &RecordBatch, to: &mut Text) -> Result<(), ArrowError> {
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns());
        let columns = columns.map(|(field, array)| Column::new(field, array, &self.options));
        let mut columns = columns.collect::<Result<Vec<_>, _>>()?;
        let mut line = Vec::new();
        for row in 0..batch.num_rows() {
            line.clear();
            for (index, column) in columns.iter_mut().enumerate() {
                if index > 0 {
                    line.push(b',');
                }
                column.push(row, &mut line);
            }
            line.push(b'\n');
            to.bytes.put_slice(&line);
            to.rows += 1;
        }
        Ok(())
    }
}

enum Column<'a> {
    Text(&'a ArrayRef),
    Other { values: NullableEncoder<'a>, scratch: Vec<u8>, is_nested: bool },
}

impl<'a> Column<'a> {
    fn new(field: &'a FieldRef, array: &'a ArrayRef, options: &'a EncoderOptions) -> Result<Self, ArrowError> {
        if array.data_type() == &DataType::Utf8 {
            return Ok(Column::Text(array));
        }
        let values = make_encoder(field, array, options)?;
        Ok(Column::Other { values, scratch: Vec::new(), is_nested: array.data_type().is_nested() })
    }

    /// Appends the field of that row, nothing if it is null.
    fn push(&mut self, row: usize, line: &mut Vec<u8>) {
        match self {
            Column::Text(array) if array.is_null(row) => {}
            Column::Text(array) => push_text(array.as_string::<i32>().value(row).as_bytes(), line),
            Column::Other { values, .. } if values.is_null(row) => {}
            Column::Other { values, scratch, is_nested: true } => {
                scratch.clear();
                values.encode(row, scratch);
                push_text(scratch, line);
            }
            Column::Other { values, scratch, .. } => {
                scratch.clear();
                values.encode(row, scratch);
                let string = scratch.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
                line.extend_from_slice(string.unwrap_or(scratch));
            }
        }
    }
}

/// In quotes if it has to be, and if it is empty, as it would be null otherwise.
fn push_text(text: &[u8], line: &mut Vec<u8>) {
    let is_special = |byte: &u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !text.is_empty() && !text.iter().any(is_special) {
        line.extend_from_slice(text);
        return;
    }
    line.push(b'"');
    for byte in text {
        if *byte == b'"' {
            line.push(b'"');
        }
        line.push(*byte);
    }
    line.push(b'"');
}
