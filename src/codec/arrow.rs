//! Batches as Arrow IPC streams: schema and one batch, so that any Arrow library in any language reads a message by itself.

use std::panic;

use arrow::array::{Array, ArrayRef, RecordBatchOptions, new_null_array};
use arrow::buffer::Buffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{FieldRef, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

/// The media type of such a stream.
pub const CONTENT_TYPE: &str = "application/vnd.apache.arrow.stream";

/// Why bytes are not a batch, or a batch cannot become bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Arrow cannot read or write it.
    #[error("not an Arrow IPC stream: {0}")]
    Arrow(#[from] ArrowError),
    /// The stream ends before there is a batch.
    #[error("the Arrow IPC stream holds no batch")]
    NoBatch,
    /// The stream contradicts itself in a way that Arrow does not expect.
    #[error("the Arrow IPC stream is damaged")]
    Damaged,
    /// The stream goes on where it should end.
    #[error("the Arrow IPC stream holds more than one batch")]
    MoreThanOne,
}

/// One IPC stream of the batch.
pub fn encode(batch: &RecordBatch) -> Result<Bytes, Error> {
    // The estimate saves growing step by step; the schema and the framing take less than the addition.
    let stream = Vec::with_capacity(size_bytes(batch) + 1024);
    let mut writer = StreamWriter::try_new(stream, batch.schema_ref())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

/// About how many bytes the rows take. A batch that is a part of a larger one shares its memory, and counts for itself.
pub(crate) fn size_bytes(batch: &RecordBatch) -> usize {
    let size = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(column.get_array_memory_size());
    batch.columns().iter().map(size).sum()
}

/// The batch of an IPC stream. Its columns share the memory of the bytes.
pub fn decode(stream: Bytes) -> Result<RecordBatch, Error> {
    // arrow-ipc checks most of what a stream says, but slices its buffers by lengths and offsets that it does not check.
    panic::catch_unwind(|| read(stream)).unwrap_or(Err(Error::Damaged))
}

/// The batch under another schema: columns by name, cast where types differ, null where there is none of that name.
///
/// # Errors
/// A value that the other type cannot hold, or a null where the schema has none.
pub fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let column = |field: &FieldRef| match batch.column_by_name(field.name()) {
        Some(column) => cast_with_options(column, field.data_type(), &options),
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &rows)
}

fn read(stream: Bytes) -> Result<RecordBatch, Error> {
    let mut buffer = Buffer::from(stream);
    let mut decoder = StreamDecoder::new();
    let batch = decoder.decode(&mut buffer)?.ok_or(Error::NoBatch)?;
    match decoder.decode(&mut buffer)? {
        Some(_) => Err(Error::MoreThanOne),
        None => {
            decoder.finish()?;
            Ok(batch)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: &[(i64, Option<String>, Option<f64>)]) -> RecordBatch {
        let lists = rows.iter().map(|row| row.1.as_ref().map(|text| text.bytes().map(|byte| Some(i32::from(byte)))));
        let columns: [(&str, ArrayRef); 4] = [
            ("id", Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>())),
            ("name", Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringArray>())),
            ("amount", Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>())),
            ("bytes", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, name != "id"))).unwrap()
    }

    fn sample() -> RecordBatch {
        let row = |id: i64| (id, Some(format!("name {id}")), Some(id as f64));
        batch(&(0..20).map(row).chain([(-1, None, None)]).collect::<Vec<_>>())
    }

    #[test]
    fn an_empty_batch_keeps_its_schema() {
        let empty = sample().slice(0, 0);
        assert_eq!(decode(encode(&empty).unwrap()).unwrap(), empty);
    }

    #[test]
    fn a_slice_takes_only_the_space_of_its_rows() {
        let whole = batch(&(0..10_000).map(|id| (id, Some("x".repeat(50)), None)).collect::<Vec<_>>());
        let slice = whole.slice(5_000, 1);
        let stream = encode(&slice).unwrap();
        assert!(stream.len() < 3_000, "{}", stream.len());
        assert_eq!(decode(stream).unwrap(), slice);
    }

    #[test]
    fn what_is_no_stream_of_one_batch_is_refused() {
        let stream = encode(&sample()).unwrap();
        assert!(matches!(decode(Bytes::new()), Err(Error::NoBatch)));
        assert!(matches!(decode(Bytes::from_static(b"{\"id\":1}")), Err(Error::Arrow(_) | Error::NoBatch)));
        let mut writer = StreamWriter::try_new(Vec::new(), sample().schema_ref()).unwrap();
        writer.write(&sample()).unwrap();
        writer.write(&sample()).unwrap();
        assert!(matches!(decode(writer.into_inner().unwrap().into()), Err(Error::MoreThanOne)));
        for end in 0..stream.len() - 8 {
            assert!(decode(stream.slice(..end)).is_err(), "{end} of {}", stream.len());
        }
    }

    proptest! {
        #[test]
        fn a_batch_survives_the_way_through_bytes(
            rows in prop::collection::vec((any::<i64>(), any::<Option<String>>(), any::<Option<f64>>()), 0..20),
            offset in 0usize..9,
        ) {
            let batch = batch(&rows);
            let stream = encode(&batch).unwrap();
            // Wherever in memory the stream starts.
            let mut shifted = vec![0; offset];
            shifted.extend_from_slice(&stream);
            prop_assert_eq!(format!("{:?}", decode(Bytes::from(shifted).slice(offset..)).unwrap()), format!("{batch:?}"));
        }

        #[test]
        fn a_flipped_bit_never_panics(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut stream = encode(&sample()).unwrap().to_vec();
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
            if let Ok(batch) = decode(stream.into()) {
                prop_assert_eq!(format!("{batch:?}").is_empty(), false);
            }
        }
    }
}
