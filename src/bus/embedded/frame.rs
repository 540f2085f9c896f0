//! A message as bytes: what segment files are made of.
//!
//! ```text
//!  0  length of everything from byte 8 on     u32
//!  4  CRC-32C of the length and of all that   u32
//!  8  offset                                  u64
//! 16  arrived                                 i64, microseconds
//! 24  written                                 i64, microseconds
//! 32  rows                                    u32
//! 36  length of the key, plus 1; 0 if none    u32
//! 40  number of headers                       u32; its highest bit is set where there is no value
//! 44  key, headers (length and name, length and value), and the value up to the end
//! ```

use bytes::{Buf, BufMut, Bytes};

use super::wire::{self, Malformed};
use crate::bus::{Headers, Micros, Record};

/// Bytes before the key.
pub(super) const HEAD_BYTES: usize = 44;
/// Set in the number of headers of a record without a value.
const NO_VALUE: u32 = 1 << 31;

/// A message in its partition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    /// Its place in the partition.
    pub offset: u64,
    /// When it was written.
    pub written: Micros,
    /// The message.
    pub record: Record,
}

/// Why bytes do not start with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// They may, but this many bytes of them are needed to tell.
    Short(usize),
    /// They do not.
    Damaged(&'static str),
}

/// Bytes that the record takes as a frame.
pub(super) fn size(record: &Record) -> usize {
    HEAD_BYTES + record.headers.packed().len() + record.size_bytes() - record.headers.size_bytes()
}

/// Appends everything of a frame but the value, which is to follow.
pub(super) fn put_head(to: &mut Vec<u8>, offset: u64, written: Micros, record: &Record) {
    let start = to.len();
    let length = (size(record) - 8) as u32;
    to.put_u32_le(length);
    to.put_u32_le(0);
    to.put_u64_le(offset);
    to.put_i64_le(record.arrived);
    to.put_i64_le(written);
    to.put_u32_le(record.rows);
    to.put_u32_le(record.key.as_ref().map_or(0, |key| key.len() as u32 + 1));
    let no_value = if record.value.is_none() { NO_VALUE } else { 0 };
    to.put_u32_le(record.headers.len() as u32 | no_value);
    to.put_slice(record.key.as_deref().unwrap_or_default());
    to.put_slice(record.headers.packed());
    let covered = to.get(start + 8..).unwrap_or_default();
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(seed(length), covered), record.payload());
    if let Some(place) = to.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Appends a frame.
pub(super) fn put(to: &mut Vec<u8>, frame: &Frame) {
    put_head(to, frame.offset, frame.written, &frame.record);
    to.put_slice(frame.record.payload());
}

/// Takes a frame off the front of the bytes; what the record holds are slices of them.
pub(super) fn take(from: &mut Bytes) -> Result<Frame, Fault> {
    let mut bytes = from.clone();
    let (Ok(length), Ok(checksum)) = (wire::u32(&mut bytes), wire::u32(&mut bytes)) else {
        return Err(Fault::Short(HEAD_BYTES));
    };
    if (length as usize) < HEAD_BYTES - 8 {
        return Err(Fault::Damaged("a frame that is shorter than any"));
    }
    let Ok(covered) = wire::take(&mut bytes, length) else {
        return Err(Fault::Short(8 + length as usize));
    };
    if crc32c::crc32c_append(seed(length), &covered) != checksum {
        return Err(Fault::Damaged("the checksum does not match"));
    }
    let frame = parse(covered).map_err(|Malformed| Fault::Damaged("a frame whose parts do not fit it"))?;
    from.advance(8 + length as usize);
    Ok(frame)
}

fn parse(mut from: Bytes) -> wire::Result<Frame> {
    let offset = wire::u64(&mut from)?;
    let arrived = wire::i64(&mut from)?;
    let written = wire::i64(&mut from)?;
    let rows = wire::u32(&mut from)?;
    let key = wire::u32(&mut from)?;
    let headers = wire::u32(&mut from)?;
    let key = key.checked_sub(1).map(|len| wire::take(&mut from, len)).transpose()?;
    let has_value = headers & NO_VALUE == 0;
    let headers = Headers::unpack(headers & !NO_VALUE, &mut from).ok_or(Malformed)?;
    if !has_value && !from.is_empty() {
        return Err(Malformed);
    }
    let value = has_value.then_some(from);
    Ok(Frame { offset, written, record: Record { key, value, headers, rows, arrived, batch: None } })
}

/// The length is under the checksum as well, so that a wrong one cannot pick bytes that happen to fit.
fn seed(length: u32) -> u32 {
    crc32c::crc32c(&length.to_le_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn records() -> impl Strategy<Value = Record> {
        let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let headers = vec(("[a-z_]{0,9}", bytes()), 0..3).prop_map(Headers::from_iter);
        (proptest::option::of(bytes()), proptest::option::of(bytes()), headers, any::<u32>(), any::<i64>())
            .prop_map(|(key, value, headers, rows, arrived)| Record { key, value, headers, rows, arrived, batch: None })
    }

    pub(crate) fn frames() -> impl Strategy<Value = Frame> {
        (any::<u64>(), any::<i64>(), records()).prop_map(|(offset, written, record)| Frame { offset, written, record })
    }

    fn encoded(frame: &Frame) -> Bytes {
        let mut bytes = Vec::new();
        put(&mut bytes, frame);
        bytes.into()
    }

    #[test]
    fn the_layout_on_disk_stays_as_it_is() {
        let (key, value) = (Some(Bytes::from_static(b"k")), Some(Bytes::from_static(b"v")));
        let record = Record { key, value, headers: Headers::from([("h", "x")]), rows: 2, arrived: 3, batch: None };
        let tombstone = Record { value: None, ..record.clone() };
        let mut ends = Vec::new();
        for record in [record, tombstone] {
            let bytes = encoded(&Frame { offset: 5, written: 4, record });
            ends.push(bytes.slice(32..).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
        assert_eq!(
            ends,
            ["0200000002000000010000006b0100000068010000007876", "0200000002000000010000806b01000000680100000078"]
        );
    }

    proptest! {
        #[test]
        fn a_frame_survives_byte_for_byte(frame in frames(), rest in vec(any::<u8>(), 0..9)) {
            let mut bytes = encoded(&frame).to_vec();
            prop_assert_eq!(bytes.len(), size(&frame.record));
            bytes.extend(&rest);
            let mut bytes = Bytes::from(bytes);
            prop_assert_eq!(take(&mut bytes), Ok(frame));
            prop_assert_eq!(bytes, rest);
        }

        #[test]
        fn a_frame_that_is_cut_anywhere_is_short(frame in frames(), at in any::<prop::sample::Index>()) {
            let bytes = encoded(&frame);
            let mut cut = bytes.slice(..at.index(bytes.len()));
            prop_assert!(matches!(take(&mut cut), Err(Fault::Short(needed)) if needed > cut.len()));
        }

        #[test]
        fn a_flipped_bit_never_goes_unseen(frame in frames(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = encoded(&frame).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(take(&mut bytes.into()).is_err());
        }
    }
}
