//! Where the fields of a record lie. What is in them is for `decode` to find.

use std::borrow::Cow;

/// A field's place in the text, in bytes, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Field {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) is_quoted: bool,
}

impl Field {
    /// The text of the field, doubled quotes resolved.
    pub(super) fn text(self, text: &str) -> Cow<'_, str> {
        let field = text.get(self.start as usize..self.end as usize).unwrap_or_default();
        match self.is_quoted && memchr::memchr(b'"', field.as_bytes()).is_some() {
            true => Cow::Owned(field.replace("\"\"", "\"")),
            false => Cow::Borrowed(field),
        }
    }
}

/// Gives each field of the record between `start` and the end of the text to `field`.
pub(super) fn each(text: &[u8], start: usize, mut field: impl FnMut(Field)) -> Result<(), &'static str> {
    let mut at = start;
    loop {
        let (found, after) = match text.get(at) {
            Some(b'"') => quoted(text, at + 1)?,
            _ => plain(text, at),
        };
        field(found);
        match text.get(after) {
            Some(b',') => at = after + 1,
            Some(_) => return Err("there is text behind the quote that closes a field"),
            None => return Ok(()),
        }
    }
}

fn plain(text: &[u8], start: usize) -> (Field, usize) {
    let rest = text.get(start..).unwrap_or_default();
    // Most fields are too short for a search by vector instructions to pay.
    let end = start + rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
    (Field { start: start as u32, end: end as u32, is_quoted: false }, end)
}

fn quoted(text: &[u8], start: usize) -> Result<(Field, usize), &'static str> {
    let mut at = start;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let Some(quote) = memchr::memchr(b'"', rest) else {
            return Err("a field in quotes does not end");
        };
        let end = at + quote;
        if text.get(end + 1) == Some(&b'"') {
            at = end + 2;
        } else {
            return Ok((Field { start: start as u32, end: end as u32, is_quoted: true }, end + 1));
        }
    }
}
