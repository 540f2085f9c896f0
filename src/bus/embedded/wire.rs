//! Numbers, texts and byte strings as they stand in the log's files: little-endian, with lengths in front.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

/// The bytes end too early, or are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

pub(super) type Result<T> = std::result::Result<T, Malformed>;

pub(super) fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.put_u32_le(bytes.len() as u32);
    to.put_slice(bytes);
}

pub(super) fn put_option(to: &mut Vec<u8>, value: Option<u64>) {
    to.put_u8(value.is_some().into());
    to.put_u64_le(value.unwrap_or(0));
}

pub(super) fn u8(from: &mut Bytes) -> Result<u8> {
    from.try_get_u8().map_err(|_| Malformed)
}

pub(super) fn u32(from: &mut Bytes) -> Result<u32> {
    from.try_get_u32_le().map_err(|_| Malformed)
}

pub(super) fn u64(from: &mut Bytes) -> Result<u64> {
    from.try_get_u64_le().map_err(|_| Malformed)
}

pub(super) fn i64(from: &mut Bytes) -> Result<i64> {
    from.try_get_i64_le().map_err(|_| Malformed)
}

pub(super) fn option(from: &mut Bytes) -> Result<Option<u64>> {
    let there = u8(from)? != 0;
    let value = u64(from)?;
    Ok(there.then_some(value))
}

/// The next `len` bytes, without copying them.
pub(super) fn take(from: &mut Bytes, len: u32) -> Result<Bytes> {
    let len = len as usize;
    if len > from.len() { Err(Malformed) } else { Ok(from.split_to(len)) }
}

pub(super) fn bytes(from: &mut Bytes) -> Result<Bytes> {
    let len = u32(from)?;
    take(from, len)
}

pub(super) fn text(from: &mut Bytes) -> Result<Arc<str>> {
    let bytes = bytes(from)?;
    std::str::from_utf8(&bytes).map(Arc::from).map_err(|_| Malformed)
}
