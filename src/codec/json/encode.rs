//! Columns to JSON rows, by arrow-json, with writers of our own for what it writes slowly or cannot write.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, FieldRef, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, NullableEncoder, Writer, WriterBuilder};
use arrow::json::{Encoder as ValueEncoder, EncoderFactory, EncoderOptions};
use arrow::record_batch::RecordBatch;
use bytes::{BufMut, Bytes};
use serde_json::Value;

use crate::codec::{self, Text, time};

/// Encodes rows as JSON objects, one a line.
#[derive(Debug, Clone)]
pub struct Encoder {
    options: WriterBuilder,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// For rows of any schema.
    pub fn new() -> Self {
        let options = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(Values));
        Self { options }
    }
}

impl codec::Encoder for Encoder {
    fn head(&self) -> Bytes {
        Bytes::new()
    }

    fn encode(&mut self, batch: &RecordBatch, to: &mut Text) -> Result<(), ArrowError> {
        let start = to.bytes.len();
        let mut writer: Writer<_, LineDelimited> = self.options.clone().build((&mut to.bytes).writer());
        writer.write(batch)?;
        // A line end within a string is written as an escape.
        to.rows += memchr::memchr_iter(b'\n', to.bytes.get(start..).unwrap_or_default()).count() as u64;
        Ok(())
    }
}

/// Each row as the text of a JSON object, without line ends. The texts share one buffer.
pub fn rows_to_text(batch: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    let mut lines = Text::default();
    codec::Encoder::encode(&mut Encoder::new(), batch, &mut lines)?;
    let lines = lines.bytes.freeze();
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', &lines);
    let mut texts = Vec::with_capacity(batch.num_rows());
    texts.extend(ends.map(|end| lines.slice(std::mem::replace(&mut start, end + 1)..end)));
    Ok(texts)
}

/// Each row as a JSON object.
pub fn rows_to_values(batch: &RecordBatch) -> Result<Vec<Value>, ArrowError> {
    let mut rows = Vec::with_capacity(batch.num_rows());
    for (row, text) in rows_to_text(batch)?.iter().enumerate() {
        let mut value: Value =
            serde_json::from_slice(text).map_err(|error| ArrowError::JsonError(error.to_string()))?;
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            exact(column, row, value.get_mut(field.name()));
        }
        rows.push(value);
    }
    Ok(rows)
}

/// Gives back to doubles the last bit, which serde_json may have got wrong.
fn exact(array: &ArrayRef, row: usize, value: Option<&mut Value>) {
    match (value, array.data_type()) {
        (Some(value @ Value::Number(_)), DataType::Float64) => {
            let double = array.as_primitive::<Float64Type>().values().get(row);
            if let Some(number) = double.and_then(|double| serde_json::Number::from_f64(*double)) {
                *value = Value::Number(number);
            }
        }
        (Some(Value::Array(elements)), DataType::List(_)) => {
            let list = array.as_list::<i32>().value(row);
            elements.iter_mut().enumerate().for_each(|(at, element)| exact(&list, at, Some(element)));
        }
        (Some(Value::Object(members)), DataType::Struct(fields)) => {
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                exact(column, row, members.get_mut(field.name()));
            }
        }
        _ => {}
    }
}

/// How a single value is written.
pub(in crate::codec) static VALUE_OPTIONS: LazyLock<EncoderOptions> =
    LazyLock::new(|| EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(Values)));

/// The encoders of our own.
#[derive(Debug)]
struct Values;

impl EncoderFactory for Values {
    fn make_default_encoder<'a>(
        &self,
        _: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        Ok(match array.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => timestamps::<TimestampSecondType>(array, TimeUnit::Second),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                timestamps::<TimestampMillisecondType>(array, TimeUnit::Millisecond)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                timestamps::<TimestampMicrosecondType>(array, TimeUnit::Microsecond)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                timestamps::<TimestampNanosecondType>(array, TimeUnit::Nanosecond)
            }
            DataType::Date32 => nullable(array, Dates(array.as_primitive::<Date32Type>().values())),
            DataType::Float64 => nullable(array, Floats(array.as_primitive::<Float64Type>())),
            DataType::Float32 => nullable(array, Floats(array.as_primitive::<Float32Type>())),
            _ => None,
        })
    }
}

fn nullable<'a>(array: &dyn Array, encoder: impl ValueEncoder + 'a) -> Option<NullableEncoder<'a>> {
    Some(NullableEncoder::new(Box::new(encoder), array.nulls().cloned()))
}

fn timestamps<T: ArrowPrimitiveType<Native = i64>>(array: &dyn Array, unit: TimeUnit) -> Option<NullableEncoder<'_>> {
    nullable(array, Timestamps { values: array.as_primitive::<T>().values(), unit })
}

struct Timestamps<'a> {
    values: &'a [i64],
    unit: TimeUnit,
}

impl ValueEncoder for Timestamps<'_> {
    fn encode(&mut self, at: usize, to: &mut Vec<u8>) {
        let Some(value) = self.values.get(at) else { return };
        to.push(b'"');
        time::write(*value, self.unit, to);
        to.push(b'"');
    }
}

/// Arrow writes an error where a year has more than six digits.
struct Dates<'a>(&'a [i32]);

impl ValueEncoder for Dates<'_> {
    fn encode(&mut self, at: usize, to: &mut Vec<u8>) {
        let Some(days) = self.0.get(at) else { return };
        to.push(b'"');
        time::write_date(i64::from(*days), to);
        to.push(b'"');
    }
}

/// arrow-json would write null for what is no number.
struct Floats<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType<Native: Into<f64> + serde::Serialize>> ValueEncoder for Floats<'_, T> {
    fn encode(&mut self, at: usize, to: &mut Vec<u8>) {
        let Some(value) = self.0.values().get(at) else { return };
        let wide: f64 = (*value).into();
        if wide.is_nan() {
            to.extend_from_slice(b"\"NaN\"");
        } else if wide.is_infinite() {
            to.extend_from_slice(if wide > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
        } else if serde_json::to_writer(&mut *to, value).is_err() {
            // Writing a number to memory does not fail; if it did, the line would still be JSON.
            to.extend_from_slice(b"null");
        }
    }
}
