//! Where in a stream of bytes its rows lie: a row a line, as NDJSON and CSV have it. Pure: bytes are pushed in, however
//! they were cut, and blocks of rows are taken out. Where the bytes come from, and what they mean, is not known here.
//!
//! - A line ends with LF or CRLF, or where the stream ends. The line end is not part of the row.
//! - Empty lines are no rows. A UTF-8 byte order mark at the start of the stream belongs to no row.
//! - In CSV a quoted field may hold line ends. As in RFC 4180, a quote opens a field only where the field starts; anywhere
//!   else in an unquoted field it is a character like any other, so that a stray one does not swallow the lines after it.
//! - In CSV the first record is the header of all rows that follow.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use crate::bus::Limit;
use crate::codec::RawRows;
use crate::config::LineFormat;
use crate::failure::{Class, Reject};

/// The most bytes of an oversized row that are kept, to show it.
const KEPT_BYTES: usize = 64 << 10;
/// No row and no block is larger, whatever the limits are, so that places in a buffer fit in 32 bits.
const MOST_BYTES: usize = 1 << 30;
/// An emptied buffer of more than this is given back rather than used again.
const REUSED_BYTES: usize = 8 << 20;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Finds the rows of one stream.
pub struct Framer {
    format: LineFormat,
    max_row_bytes: usize,
    header: Option<Bytes>,
    /// What was not taken yet.
    buffer: BytesMut,
    /// How large the last block was, within reason.
    block_bytes: usize,
    /// Where the buffer starts in the stream, in bytes.
    offset: u64,
    /// The complete rows of the buffer.
    rows: Vec<Range<u32>>,
    /// Where in the buffer the row after those starts.
    start: usize,
    /// How far the buffer was searched for the end of that row.
    searched: usize,
    quotes: Quotes,
    /// That row, once it has become too long to be kept.
    oversized: Option<Oversized>,
    /// A complete row that is of no use. It comes after `rows`, and nothing is searched before it was taken.
    useless: Option<Useless>,
    ending: Option<Ending>,
}

/// Complete rows, as they are taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The header line that governs them, if they have one.
    pub header: Option<Bytes>,
    /// The rows.
    pub rows: RawRows,
    /// Those of them that are of no use.
    pub rejects: Vec<Reject>,
    /// Where the buffer of `rows` starts in the stream, in bytes.
    pub offset: u64,
    /// Where the stream goes on after them, in bytes: the end of the last one's line.
    pub next: u64,
}

/// How a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With its last byte.
    Whole,
    /// Before it should, for the reason given. What is left of it becomes a reject, even if it is not a single byte, so
    /// that the loss is on record.
    Torn(String),
}

/// Where a search stands between quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Outside,
    Inside,
    /// After a quote inside: another one makes it a literal quote, anything else makes it the closing one.
    Closing,
}

struct Oversized {
    /// Where it starts in the stream.
    offset: u64,
    kept: Bytes,
    /// How much of it has gone by.
    length: u64,
    /// The last byte that has gone by.
    last: u8,
}

struct Useless {
    bytes: Bytes,
    offset: u64,
    next: u64,
    class: Class,
    message: String,
}

impl Framer {
    /// A framer of a stream from its byte `offset` on, which is the start of a row. From any but the first byte, CSV needs
    /// its `header`. Rows of more than `max_row_bytes` are rejects.
    pub fn new(format: LineFormat, max_row_bytes: usize, offset: u64, header: Option<Bytes>) -> Self {
        Self {
            format,
            max_row_bytes: max_row_bytes.min(MOST_BYTES),
            header,
            buffer: BytesMut::new(),
            block_bytes: 0,
            offset,
            rows: Vec::new(),
            start: 0,
            searched: 0,
            quotes: Quotes::Outside,
            oversized: None,
            useless: None,
            ending: None,
        }
    }

    /// The header line, as soon as it is known.
    pub fn header(&self) -> Option<&Bytes> {
        self.header.as_ref()
    }

    /// Where in the stream the bytes pushed so far end.
    pub fn received(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.rows.is_empty() && self.start > 0 {
            self.forget(self.start);
        }
        if self.buffer.capacity() - self.buffer.len() < bytes.len() {
            // Room for a block like the last one at once, rather than by doubling.
            self.buffer.reserve(bytes.len().max(self.block_bytes.saturating_sub(self.buffer.len())));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes note that the stream ends here.
    pub fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
    }

    /// Whether the stream has ended and everything of it was taken.
    pub fn is_exhausted(&self) -> bool {
        self.ending == Some(Ending::Whole) && !self.has_rows() && self.buffer.is_empty() && self.oversized.is_none()
    }

    /// Whether there is a complete row to take.
    pub fn has_rows(&self) -> bool {
        !self.rows.is_empty() || self.useless.is_some()
    }

    /// Looks for complete rows, up to the limit. True once no more of them can be in the same block.
    pub fn search(&mut self, limit: Limit) -> bool {
        let limit = Limit { rows: limit.rows.max(1), bytes: limit.bytes.min(MOST_BYTES) };
        while self.useless.is_none() && self.rows.len() < limit.rows {
            let found = match self.line_end() {
                Some(end) => self.complete(end, end + 1, limit),
                None if self.ending.is_some() => {
                    self.close(limit);
                    return true;
                }
                None if self.has_rows() => return self.searched - self.start > self.max_row_bytes + 1,
                None => {
                    self.shed();
                    return false;
                }
            };
            if !found {
                return true;
            }
        }
        true
    }

    /// Takes the rows that were found; a row that is of no use is taken alone.
    pub fn take(&mut self) -> Option<Cut> {
        if !self.rows.is_empty() {
            return Some(self.take_rows());
        }
        let Useless { bytes, offset, next, class, message } = self.useless.take()?;
        self.forget(self.start);
        let rows = RawRows { rows: std::iter::once(0..bytes.len() as u32).collect(), bytes };
        Some(Cut { header: self.header.clone(), rows, rejects: vec![Reject { row: 0, class, message }], offset, next })
    }

    fn take_rows(&mut self) -> Cut {
        let offset = self.offset;
        let bytes = self.buffer.split_to(self.start).freeze();
        self.block_bytes = bytes.len().min(REUSED_BYTES);
        self.moved(self.start);
        if self.buffer.capacity() > REUSED_BYTES && self.buffer.len() < REUSED_BYTES {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        let capacity = self.rows.len();
        let rows = std::mem::replace(&mut self.rows, Vec::with_capacity(capacity));
        let rows = RawRows { bytes, rows };
        Cut { header: self.header.clone(), rows, rejects: Vec::new(), offset, next: self.offset }
    }

    /// Where the line that starts at `start` ends, if that is in the buffer.
    fn line_end(&mut self) -> Option<usize> {
        let unsearched = self.buffer.get(self.searched..)?;
        let found = match self.format {
            LineFormat::Ndjson => memchr::memchr(b'\n', unsearched).map(|at| self.searched + at),
            LineFormat::Csv => self.record_end(),
        };
        self.searched = found.map_or(self.buffer.len(), |end| end + 1);
        found
    }

    fn record_end(&mut self) -> Option<usize> {
        let mut at = self.searched;
        loop {
            let rest = self.buffer.get(at..)?;
            match self.quotes {
                Quotes::Inside => {
                    at += memchr::memchr(b'"', rest)? + 1;
                    self.quotes = Quotes::Closing;
                }
                Quotes::Closing => {
                    let literal = *rest.first()? == b'"';
                    at += usize::from(literal);
                    self.quotes = if literal { Quotes::Inside } else { Quotes::Outside };
                }
                Quotes::Outside => {
                    let found = at + memchr::memchr2(b'"', b'\n', rest)?;
                    if self.buffer.get(found) == Some(&b'\n') {
                        return Some(found);
                    }
                    if self.is_field_start(found) {
                        self.quotes = Quotes::Inside;
                    }
                    at = found + 1;
                }
            }
        }
    }

    fn is_field_start(&self, at: usize) -> bool {
        let before = match &self.oversized {
            Some(row) if at == 0 => Some(row.last),
            _ => self.buffer.get(self.start..at).and_then(|row| row.last().copied()),
        };
        before.is_none_or(|byte| byte == b',') || (at == self.start + BOM.len() && self.has_bom(at))
    }

    /// Whether the row up to `end` is the first of the stream and starts with a byte order mark.
    fn has_bom(&self, end: usize) -> bool {
        self.offset + self.start as u64 == 0 && self.buffer.get(self.start..end).is_some_and(|row| row.starts_with(BOM))
    }

    /// Deals with the row from `start` to `end`, after which the stream goes on at `next`, both places in the buffer.
    /// False if it is not to be in the same block as the rows before it.
    fn complete(&mut self, end: usize, next: usize, limit: Limit) -> bool {
        if let Some(row) = self.oversized.take() {
            let rest = self.buffer.get(..end).unwrap_or_default();
            let last = rest.last().copied().unwrap_or(row.last);
            let length = row.length + rest.len() as u64 - u64::from(last == b'\r');
            self.refuse(row.kept, row.offset, length, next);
            return true;
        }
        let row = self.trim(end);
        if row.len() > self.max_row_bytes {
            if !self.rows.is_empty() {
                return self.put_off();
            }
            let kept = self.kept(row.start);
            self.refuse(kept, self.offset + row.start as u64, row.len() as u64, next);
        } else if row.is_empty() {
            self.start = next;
        } else if self.awaits_header() {
            self.header = self.buffer.get(row).map(Bytes::copy_from_slice);
            self.start = next;
        } else {
            let room = self.rows.first().map_or(usize::MAX, |first| limit.bytes + first.start as usize);
            if row.end > room {
                return self.put_off();
            }
            self.rows.push(row.start as u32..row.end as u32);
            self.start = next;
        }
        true
    }

    fn awaits_header(&self) -> bool {
        self.format == LineFormat::Csv && self.header.is_none()
    }

    fn put_off(&mut self) -> bool {
        self.searched = self.start;
        self.quotes = Quotes::Outside;
        false
    }

    /// Makes a reject of a row that is over the limit. A header line of that kind governs the rows nevertheless: none of
    /// them is to be taken for a header in its place.
    fn refuse(&mut self, kept: Bytes, offset: u64, length: u64, next: usize) {
        if self.awaits_header() {
            self.header = Some(kept.clone());
        }
        let message = self.over_limit(length, kept.len());
        let next_offset = self.offset + next as u64;
        self.useless = Some(Useless { bytes: kept, offset, next: next_offset, class: Class::TooLarge, message });
        self.start = next;
    }

    /// The first bytes of an oversized row.
    fn kept(&self, start: usize) -> Bytes {
        let kept = start..start + KEPT_BYTES.min(self.max_row_bytes);
        self.buffer.get(kept).map(Bytes::copy_from_slice).unwrap_or_default()
    }

    /// The row without its byte order mark and the CR of its line end.
    fn trim(&self, end: usize) -> Range<usize> {
        let start = if self.has_bom(end) { self.start + BOM.len() } else { self.start };
        let ends_with_cr = self.buffer.get(start..end).is_some_and(|row| row.ends_with(b"\r"));
        start..end - usize::from(ends_with_cr)
    }

    fn over_limit(&self, length: u64, kept: usize) -> String {
        let limit = self.max_row_bytes;
        format!("the row has {length} bytes and max_row_bytes is {limit}; its first {kept} bytes are kept")
    }

    /// Lets go of an unfinished row that is over the limit, but for its first bytes.
    fn shed(&mut self) {
        let start = self.trim(self.searched).start;
        // The last byte may be the CR of a line end, which does not count.
        if self.oversized.is_none() && self.searched - start > self.max_row_bytes + 1 {
            let row = Oversized { offset: self.offset + start as u64, kept: self.kept(start), length: 0, last: 0 };
            self.oversized = Some(row);
            self.forget(start);
        }
        if let (Some(row), Some(last)) = (&mut self.oversized, self.buffer.last()) {
            row.length += self.buffer.len() as u64;
            row.last = *last;
            self.forget(self.buffer.len());
        }
    }

    /// Ends the last row, after which there is no line end.
    fn close(&mut self, limit: Limit) {
        let end = self.buffer.len();
        if let Some(Ending::Torn(why)) = &self.ending {
            if self.rows.is_empty() {
                let why = why.clone();
                self.close_torn(end, why);
            }
            return;
        }
        if self.start < end || self.oversized.is_some() {
            self.complete(end, end, limit);
        }
        if !self.has_rows() {
            self.forget(self.start);
        }
    }

    fn close_torn(&mut self, end: usize, mut message: String) {
        self.ending = Some(Ending::Whole);
        let next = self.offset + end as u64;
        let (bytes, offset) = match self.oversized.take() {
            Some(row) => {
                let length = row.length + end as u64;
                message = format!("{message}; {}", self.over_limit(length, row.kept.len()));
                (row.kept, row.offset)
            }
            None => {
                let rest = self.buffer.get(self.start..end).map(Bytes::copy_from_slice).unwrap_or_default();
                (rest, self.offset + self.start as u64)
            }
        };
        self.useless = Some(Useless { bytes, offset, next, class: Class::Decode, message });
        self.start = end;
    }

    /// Drops the first bytes of the buffer, which belong to no row.
    fn forget(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.moved(bytes);
    }

    fn moved(&mut self, bytes: usize) {
        self.offset += bytes as u64;
        self.start = self.start.saturating_sub(bytes);
        self.searched = self.searched.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests;
