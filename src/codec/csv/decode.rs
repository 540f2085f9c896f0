//! CSV rows to columns: first the place of every field, row by row, then the values, column by column.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};

use super::Error;
use super::fields::{self, Field};
use crate::codec::rejects::Rejects;
use crate::codec::value::{self, Cell};
use crate::codec::{self, Decoded, RawRows};
use crate::failure::Class;

/// Decodes rows that are CSV records.
pub struct Decoder {
    schema: SchemaRef,
    /// For each field of a record, the column of the schema it is for.
    columns: Vec<Option<usize>>,
    /// The text that stands for null, beside the empty one.
    null: Option<String>,
    /// Kept from one call to the next for its memory: the places of each column's fields.
    places: Vec<Vec<Field>>,
}

impl Decoder {
    /// For rows under a header line, which is given without its line end, of a schema. `null` is the text that stands for
    /// null, beside the empty one.
    pub fn new(schema: SchemaRef, header: &[u8], null: Option<&str>) -> Result<Self, Error> {
        if let Some(field) = schema.fields().iter().find(|field| !value::is_readable(field.data_type())) {
            return Err(Error::Unsupported { column: field.name().clone(), data_type: field.data_type().clone() });
        }
        let columns = columns(&schema, header)?;
        Ok(Self { schema, columns, null: null.map(str::to_owned), places: Vec::new() })
    }

    /// Notes where the fields of each row are. Whether all rows have as many as the header.
    fn find(&mut self, raw: &RawRows, text: &str, rejects: &mut Rejects) {
        self.places.resize_with(self.schema.fields().len(), Vec::new);
        for column in &mut self.places {
            column.clear();
            column.resize(raw.len(), Field::default());
        }
        for (row, range) in raw.rows.iter().enumerate() {
            let record = text.as_bytes().get(..range.end as usize).unwrap_or_default();
            let mut count = 0;
            let found = fields::each(record, range.start as usize, |field| {
                let column = self.columns.get(count).copied().flatten().and_then(|column| self.places.get_mut(column));
                if let Some(place) = column.and_then(|column| column.get_mut(row)) {
                    *place = field;
                }
                count += 1;
            });
            match found {
                Ok(()) if count == self.columns.len() => {}
                Ok(()) => {
                    let message = format!("the row has {count} fields, the header line {}", self.columns.len());
                    rejects.add(row, Class::Decode, message);
                }
                Err(problem) => rejects.add(row, Class::Decode, problem.to_owned()),
            }
        }
    }

    fn column(&self, field: &FieldRef, places: &[Field], text: &str, rejects: &mut Rejects) -> ArrayRef {
        let is_text = matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let cell = |row: usize| {
            let Some(place) = places.get(row) else { return Cell::Null };
            let text = place.text(text);
            match text.is_empty() || self.null.as_deref() == Some(&*text) {
                true if !place.is_quoted || (text.is_empty() && !is_text) => Cell::Null,
                _ => Cell::Text(text),
            }
        };
        let mut faults = Vec::new();
        let array = value::column(field.data_type(), places.len(), cell, &mut faults);
        for fault in faults {
            rejects.add(fault.at, Class::Contract, format!("column `{}`: {}", field.name(), fault.message));
        }
        if !field.is_nullable() && array.null_count() > 0 {
            for row in (0..array.len()).filter(|row| array.is_null(*row)) {
                rejects.add(row, Class::Contract, format!("column `{}` must not be null", field.name()));
            }
        }
        array
    }
}

impl codec::Decoder for Decoder {
    fn decode(&mut self, raw: &RawRows) -> Decoded {
        let mut rejects = Rejects::default();
        let text = rejects.text(raw);
        self.find(raw, &text, &mut rejects);
        let columns = self.schema.fields().iter().zip(&self.places);
        let columns = columns.map(|(field, places)| self.column(field, places, &text, &mut rejects)).collect();
        rejects.finish(&self.schema, columns, raw.len())
    }
}

fn columns(schema: &SchemaRef, header: &[u8]) -> Result<Vec<Option<usize>>, Error> {
    // Spreadsheets mark UTF-8 by these three bytes.
    let header = header.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(header);
    let malformed = |problem: String| Error::Header { problem };
    let text = std::str::from_utf8(header).map_err(|error| malformed(error.to_string()))?;
    let mut columns: Vec<Option<usize>> = Vec::new();
    let found = fields::each(header, 0, |field| columns.push(schema.index_of(&field.text(text)).ok()));
    found.map_err(|problem| malformed(problem.to_owned()))?;
    for (index, field) in schema.fields().iter().enumerate() {
        if columns.iter().filter(|column| **column == Some(index)).count() > 1 {
            return Err(Error::Duplicate { column: field.name().clone() });
        }
    }
    Ok(columns)
}
