//! Where the values of a JSON text lie, strictly by RFC 8259, without recursion. What the values are is for `decode` to find.

/// A value's place in the text, in bytes; empty if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// What the text should have had, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unexpected {
    pub(super) expected: &'static str,
    pub(super) at: usize,
}

/// Reads a text from front to back.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Result<T> = std::result::Result<T, Unexpected>;

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], start: usize) -> Self {
        Self { bytes, at: start }
    }

    /// Enters the object or list that comes next; whether there is something in it.
    pub(super) fn enter(&mut self, open: u8, close: u8) -> Result<bool> {
        self.space();
        self.expect(open, if open == b'{' { "an object" } else { "a list" })?;
        self.space();
        Ok(!self.take(close))
    }

    /// After a member or an element: whether another one follows.
    pub(super) fn another(&mut self, close: u8) -> Result<bool> {
        self.space();
        if self.take(close) {
            return Ok(false);
        }
        self.expect(b',', if close == b'}' { "`,` or `}`" } else { "`,` or `]`" })?;
        self.space();
        Ok(true)
    }

    /// Whether exactly this comes next, a name and its quotes; it is passed then, up to where its value starts.
    pub(super) fn is_named(&mut self, quoted: &[u8]) -> Result<bool> {
        if !self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(quoted)) {
            return Ok(false);
        }
        self.at += quoted.len();
        self.colon()?;
        Ok(true)
    }

    /// Nothing but space may come any more.
    pub(super) fn end(&mut self) -> Result<()> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { self.unexpected("nothing more") }
    }

    /// The value that comes next.
    pub(super) fn value(&mut self) -> Result<Span> {
        let start = self.at;
        match self.peek() {
            Some(b'{' | b'[') => self.nested()?,
            _ => self.scalar()?,
        }
        Ok(Span { start: start as u32, end: self.at as u32 })
    }

    fn scalar(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => self.unexpected("a value"),
        }
    }

    /// Objects and lists in one another, whatever their depth: what is open is kept on a stack of its own.
    fn nested(&mut self) -> Result<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            let close = match self.peek() {
                Some(b'{') => Some(b'}'),
                Some(b'[') => Some(b']'),
                _ => None,
            };
            match close {
                None => self.scalar()?,
                Some(close) => {
                    self.at += 1;
                    self.space();
                    if !self.take(close) {
                        open.push(close);
                        if close == b'}' {
                            self.name()?;
                        }
                        continue;
                    }
                }
            }
            while let Some(&close) = open.last() {
                if self.another(close)? {
                    if close == b'}' {
                        self.name()?;
                    }
                    break;
                }
                open.pop();
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    /// The name that comes next, without its quotes; it is passed up to where its value starts.
    pub(super) fn name(&mut self) -> Result<&'a [u8]> {
        if self.peek() != Some(b'"') {
            return self.unexpected("a name in quotes");
        }
        let start = self.at + 1;
        self.string()?;
        let name = self.bytes.get(start..self.at - 1).unwrap_or_default();
        self.colon()?;
        Ok(name)
    }

    fn colon(&mut self) -> Result<()> {
        self.space();
        self.expect(b':', "`:`")?;
        self.space();
        Ok(())
    }

    fn string(&mut self) -> Result<()> {
        self.at += 1;
        loop {
            self.at += plain(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return self.unexpected("an escape for a control character"),
                None => return self.unexpected("the quote that ends a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<()> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => match self.unit()? {
                0xD800..=0xDBFF => {
                    self.expect(b'\\', "the second half of a surrogate pair")?;
                    if self.peek() != Some(b'u') || !(0xDC00..=0xDFFF).contains(&self.unit()?) {
                        return self.unexpected("the second half of a surrogate pair");
                    }
                }
                0xDC00..=0xDFFF => return self.unexpected("the first half of a surrogate pair before"),
                _ => {}
            },
            _ => return self.unexpected("an escape"),
        }
        Ok(())
    }

    /// The `u` of an escape and the four hexadecimal digits behind it.
    fn unit(&mut self) -> Result<u16> {
        let digits = self.bytes.get(self.at + 1..self.at + 5).unwrap_or_default();
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()) {
            Some(unit) => {
                self.at += 5;
                Ok(unit)
            }
            None => self.unexpected("four hexadecimal digits"),
        }
    }

    fn number(&mut self) -> Result<()> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { self.unexpected("a digit") }
    }

    fn literal(&mut self, literal: &'static [u8]) -> Result<()> {
        match self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(literal)) {
            true => {
                self.at += literal.len();
                Ok(())
            }
            false => self.unexpected("a value"),
        }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<()> {
        if self.take(byte) { Ok(()) } else { self.unexpected(expected) }
    }

    #[cold]
    fn unexpected<T>(&self, expected: &'static str) -> Result<T> {
        Err(Unexpected { expected, at: self.at })
    }
}

/// How many bytes there are before the first quote, backslash or control character. Eight at a time: a byte's high bit is
/// set where it is one of them, and the lowest of these bits is always right.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let zero = |word: u64| word.wrapping_sub(ONES) & !word;
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let special = (zero(quote) | zero(backslash) | control) & HIGH;
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len())
}

/// The text of a string without its quotes, its escapes resolved. Of escapes that no scan has passed it makes what it can.
pub(super) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut chars = after.chars();
        match chars.next() {
            Some('b') => plain.push('\u{8}'),
            Some('f') => plain.push('\u{c}'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some('u') => {
                let units = [unit(after.get(1..5)), unit(after.get(7..11))];
                let decoded = char::decode_utf16(units.into_iter().flatten()).next();
                let character = decoded.and_then(|decoded| decoded.ok()).unwrap_or(char::REPLACEMENT_CHARACTER);
                plain.push(character);
                rest = after.get(if character.len_utf16() == 2 { 11 } else { 5 }..).unwrap_or_default();
                continue;
            }
            Some(other) => plain.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    plain.push_str(rest);
    plain
}

fn unit(digits: Option<&str>) -> Option<u16> {
    u16::from_str_radix(digits?, 16).ok()
}
