//! Names and values beside a payload. A message has several of them and there are many messages, so those of a message are
//! one piece of memory, and those of many can be parts of one.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// What a value that is written takes, mostly.
const WRITTEN_BYTES: usize = 128;
/// Bytes before a name and before a value.
const LENGTH_BYTES: usize = 4;

/// Names and values beside a payload, in the order in which they were added; a name can occur more than once. A value is
/// text unless the header's own definition says otherwise.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    count: u32,
    /// Length and bytes of a name, length and bytes of its value, and so on; lengths are little-endian.
    packed: Bytes,
}

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all names and values.
    pub fn size_bytes(&self) -> usize {
        self.packed.len() - 2 * LENGTH_BYTES * self.len()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.raw().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value))
    }

    /// The value of the first header of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.raw().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    /// Adds one behind the others.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        let mut packed = BytesMut::from(std::mem::take(&mut self.packed));
        pack(&mut packed, name.as_bytes());
        pack(&mut packed, value);
        *self = Self { count: self.count + 1, packed: packed.freeze() };
    }

    /// Those whose name is wanted.
    pub fn filter(&self, mut is_wanted: impl FnMut(&str) -> bool) -> Self {
        self.iter().filter(|(name, _)| is_wanted(name)).collect()
    }

    fn raw(&self) -> Raw<'_> {
        Raw { packed: &self.packed }
    }

    /// How they lie in memory, which is also how they are on disk.
    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// So many headers, from the front of bytes that begin with them; `None` if they do not.
    pub(super) fn unpack(count: u32, from: &mut Bytes) -> Option<Self> {
        let mut raw = Raw { packed: from };
        for _ in 0..count {
            let (name, _) = raw.next()?;
            std::str::from_utf8(name).ok()?;
        }
        let left = raw.packed.len();
        let packed = from.split_to(from.len() - left);
        Some(Self { count, packed })
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, value.escape_ascii().to_string()))).finish()
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let (mut count, mut packed) = (0, BytesMut::new());
        for (name, value) in headers {
            pack(&mut packed, name.as_ref().as_bytes());
            pack(&mut packed, value.as_ref());
            count += 1;
        }
        Self { count, packed: packed.freeze() }
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>, const COUNT: usize> From<[(N, V); COUNT]> for Headers {
    fn from(headers: [(N, V); COUNT]) -> Self {
        headers.into_iter().collect()
    }
}

fn pack(to: &mut BytesMut, part: &[u8]) {
    to.put_u32_le(part.len() as u32);
    to.extend_from_slice(part);
}

struct Raw<'a> {
    packed: &'a [u8],
}

impl<'a> Raw<'a> {
    fn part(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.packed.split_first_chunk::<LENGTH_BYTES>()?;
        let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.packed = rest;
        Some(part)
    }
}

impl<'a> Iterator for Raw<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.part()?, self.part()?))
    }
}

/// Bytes of memory that the headers of messages share at least.
const PIECE_BYTES: usize = 64 << 10;

/// Makes the headers of many messages, which share pieces of memory.
#[derive(Default)]
pub struct Packer {
    packed: BytesMut,
    count: u32,
}

impl Packer {
    /// Adds one to those of the message at hand.
    pub fn put(&mut self, name: &str, value: &[u8]) {
        self.put_part(name.as_bytes());
        self.put_part(value);
        self.count += 1;
    }

    /// Adds one whose value is written.
    pub fn write(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.put_part(name.as_bytes());
        self.reserve(WRITTEN_BYTES);
        let start = self.packed.len();
        self.packed.put_u32_le(0);
        // Memory never fails to be written.
        let _ = fmt::Write::write_fmt(&mut self.packed, value);
        let length = (self.packed.len() - start - LENGTH_BYTES) as u32;
        if let Some(place) = self.packed.get_mut(start..start + LENGTH_BYTES) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self.count += 1;
    }

    /// Adds all of some others.
    pub fn put_all(&mut self, headers: &Headers) {
        self.reserve(headers.packed.len());
        self.packed.extend_from_slice(&headers.packed);
        self.count += headers.count;
    }

    /// Those of the message at hand; what is put next is of another one.
    pub fn finish(&mut self) -> Headers {
        Headers { count: std::mem::take(&mut self.count), packed: self.packed.split().freeze() }
    }

    /// Goes on in another piece where there is no room left in this one.
    fn reserve(&mut self, bytes: usize) {
        if self.packed.capacity() - self.packed.len() < bytes {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES.max(self.packed.len() + bytes));
            piece.extend_from_slice(&self.packed);
            self.packed = piece;
        }
    }

    fn put_part(&mut self, part: &[u8]) {
        self.reserve(LENGTH_BYTES + part.len());
        pack(&mut self.packed, part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn those_of_each_message_are_what_was_put(
            messages in vec(vec((".{0,9}", vec(any::<u8>(), 0..40)), 0..5), 0..5),
            behind in vec(any::<u8>(), 0..40),
        ) {
            let mut packer = Packer::default();
            let mut packed = Vec::new();
            for (number, headers) in messages.iter().enumerate() {
                for (name, value) in headers {
                    packer.put(name, value);
                }
                packer.write("number", format_args!("{number}"));
                packed.push(packer.finish());
            }
            for (number, (headers, packed)) in messages.iter().zip(packed).enumerate() {
                let number = number.to_string();
                let expected = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
                let expected = Vec::from_iter(expected.chain([("number", number.as_bytes())]));
                prop_assert_eq!(Vec::from_iter(packed.iter()), expected.clone());
                prop_assert_eq!(packed.len(), expected.len());
                let bytes: usize = expected.iter().map(|(name, value)| name.len() + value.len()).sum();
                prop_assert_eq!(packed.size_bytes(), bytes);
                for (name, _) in &expected {
                    let first = expected.iter().find(|(found, _)| found == name).map(|(_, value)| *value);
                    prop_assert_eq!(packed.get(name), first);
                }
                let mut bytes = Bytes::from([packed.packed(), &behind].concat());
                prop_assert_eq!(Headers::unpack(packed.count, &mut bytes), Some(packed));
                prop_assert_eq!(bytes, behind.clone());
            }
        }

        #[test]
        fn any_bytes_are_headers_or_none(count in 0_u32..9, bytes in vec(any::<u8>(), 0..90)) {
            let mut left = Bytes::from(bytes.clone());
            match Headers::unpack(count, &mut left) {
                Some(headers) => prop_assert_eq!([headers.packed(), &left].concat(), bytes),
                None => prop_assert_eq!(left, bytes),
            }
        }
    }

    #[test]
    fn one_can_be_added_to_those_that_are_shared() {
        let first = Headers::from([("a", "1")]);
        let mut second = first.clone();
        second.push("b", b"2");
        assert_eq!((Vec::from_iter(first.iter()), second.len()), (vec![("a", &b"1"[..])], 2));
        assert_eq!(second.filter(|name| name != "a"), Headers::from([("b", "2")]));
        assert_eq!(format!("{second:?}"), r#"{"a": "1", "b": "2"}"#);
    }
}
