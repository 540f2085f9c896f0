//! Columns to CSV records. A value is written as JSON would write it, without the quotes of a JSON string.

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use bytes::{BufMut, Bytes};

use crate::codec::text::Values;
use crate::codec::{self, Text};

/// Encodes rows as CSV records, one a line unless text in them has line ends.
#[derive(Debug, Clone)]
pub struct Encoder {
    schema: SchemaRef,
}

impl Encoder {
    /// For rows of that schema.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema }
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
        let columns = columns.map(|(field, array)| Values::new(field, array));
        let mut columns = columns.collect::<Result<Vec<_>, _>>()?;
        let (mut line, mut scratch) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            line.clear();
            for (index, values) in columns.iter_mut().enumerate() {
                if index > 0 {
                    line.push(b',');
                }
                push_field(values, row, &mut scratch, &mut line);
            }
            line.push(b'\n');
            to.bytes.put_slice(&line);
            to.rows += 1;
        }
        Ok(())
    }
}

/// Appends the field of that row, nothing if it is null.
fn push_field(values: &mut Values<'_>, row: usize, scratch: &mut Vec<u8>, line: &mut Vec<u8>) {
    match values {
        values if values.is_null(row) => {}
        Values::Plain(_) => values.push(row, line),
        Values::Text(_) | Values::Nested(_) => {
            scratch.clear();
            values.push(row, scratch);
            push_text(scratch, line);
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
