//! A way through the values of a TOML document that collects what is wrong with them instead of stopping at it.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned as Toml;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, advice, listing};
use super::spec::Spanned;
use super::text::{self, Env, Trouble};

/// What the TOML parser found wrong, and the parts of the text that it could only guess at.
#[derive(Default)]
pub(super) struct Syntax {
    pub faults: Vec<Fault>,
    pub doubtful: Vec<RangeInclusive<usize>>,
}

/// What all cursors of one document share.
pub(super) struct Document<'a> {
    /// The text of the file.
    pub text: &'a str,
    /// The environment.
    pub env: &'a Env<'a>,
    /// Whether the text was sound TOML. If it was not, what seems to be missing may be in the part that was not
    /// understood.
    pub sound: bool,
    /// Parts of the text that the parser could only guess at.
    doubtful: Vec<RangeInclusive<usize>>,
    faults: RefCell<Vec<Fault>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str, env: &'a Env<'a>, syntax: Syntax) -> Self {
        let Syntax { faults, doubtful } = syntax;
        Self { text, env, sound: faults.is_empty(), doubtful, faults: RefCell::new(faults) }
    }

    /// Notes a fault, unless it is about what the parser made up.
    pub(super) fn fault(&self, fault: Fault) {
        if !self.doubtful.iter().any(|part| part.contains(&fault.span.start)) {
            self.faults.borrow_mut().push(fault);
        }
    }

    /// Notes that something is missing.
    pub(super) fn missing(&self, fault: Fault) {
        if self.sound {
            self.fault(fault);
        }
    }

    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.faults.into_inner()
    }
}

/// A table and the keys that were asked for.
pub(super) struct Table<'a> {
    pub document: &'a Document<'a>,
    /// The place of its header, or of all of it where it is inline.
    pub span: Range<usize>,
    /// What messages call it.
    name: String,
    table: &'a DeTable<'a>,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Table<'a> {
    pub(super) fn new(document: &'a Document<'a>, table: &'a DeTable<'a>, span: Range<usize>, name: &str) -> Self {
        Self { document, span, name: name.to_owned(), table, known: RefCell::default() }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.known.borrow_mut().push(key);
        let value = self.table.get(key)?;
        Some(Value { document: self.document, value, name: format!("`{key}`") })
    }

    /// The value of a key that has to be there.
    pub(super) fn need(&self, key: &'static str, help: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            let fault = Fault::new(self.span.clone(), format!("{} has no `{key}`", self.name));
            self.document.missing(fault.help(help));
        }
        value
    }

    /// The place of a key that is there.
    pub(super) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(key, _)| key.span())
    }

    /// All keys and values, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(Spanned<String>, Value<'a>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let name = format!("`{}`", key.get_ref());
                let key = Spanned::new(key.get_ref().clone().into_owned(), key.span());
                (key, Value { document: self.document, value, name })
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.entries().iter().filter(|(key, _)| !known.contains(&key.value.as_str())) {
            let fault = Fault::new(key.span.clone(), format!("{} has no key `{}`", self.name, key.value));
            let advice = advice(&key.value, known.iter().copied());
            self.document.fault(fault.label("unknown key").maybe_help(advice));
        }
    }
}

/// A value and what messages call it.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub document: &'a Document<'a>,
    value: &'a Toml<DeValue<'a>>,
    name: String,
}

impl<'a> Value<'a> {
    /// Its place, of a string with the quotes.
    pub(super) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// The value itself.
    pub(super) fn raw(&self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    /// The same under another name.
    pub(super) fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Notes a fault at the value.
    pub(super) fn fault(&self, message: impl AsRef<str>, help: &str) {
        let fault = Fault::new(self.span(), format!("{} {}", self.name, message.as_ref()));
        self.document.fault(fault.help(help));
    }

    /// Notes that the value is of another type than it should be.
    pub(super) fn mismatch(&self, wanted: &str, help: &str) {
        // The parser puts a value without a place where the file has none; that is a fault already.
        if self.span().is_empty() {
            return;
        }
        let found = with_article(self.raw().type_str());
        let fault = Fault::new(self.span(), format!("{} is to be {wanted}", self.name));
        self.document.fault(fault.label(format!("this is {found}")).help(help));
    }

    /// A string with its variables filled in.
    pub(super) fn string(&self, help: &str) -> Option<Spanned<String>> {
        let DeValue::String(decoded) = self.raw() else {
            self.mismatch("a string", help);
            return None;
        };
        let span = self.content();
        match text::expand(decoded, self.document.env) {
            Ok(expanded) => Some(Spanned { value: expanded.text, span, from_env: expanded.from_env }),
            Err(troubles) => {
                for (bytes, trouble) in troubles {
                    self.document.fault(environment_fault(self.place(decoded, &bytes), trouble));
                }
                None
            }
        }
    }

    /// A string as it stands, variables and all.
    pub(super) fn literal(&self, help: &str) -> Option<Spanned<String>> {
        match self.raw() {
            DeValue::String(decoded) => Some(Spanned::new(decoded.clone().into_owned(), self.content())),
            _ => {
                self.mismatch("a string", help);
                None
            }
        }
    }

    /// A string that is measured or looked up in a way that can fail.
    pub(super) fn parsed<T>(&self, help: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.string(help)?;
        let parsed = parse(&text.value);
        if parsed.is_none() {
            self.fault(format!("cannot be {}", quoted(&text)), help);
        }
        parsed
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let help = listing(words()).unwrap_or_default();
        let text = self.string(&help)?;
        let chosen = choices.iter().find(|(word, _)| *word == text.value).map(|(_, choice)| *choice);
        if chosen.is_none() {
            let advice = if text.from_env { None } else { advice(&text.value, words()) };
            self.fault(format!("cannot be {}", quoted(&text)), &advice.unwrap_or(help));
        }
        chosen
    }

    /// A whole number within bounds.
    pub(super) fn integer(&self, min: u64, max: u64) -> Option<u64> {
        let help = format!("a whole number from {min} to {max}");
        let DeValue::Integer(integer) = self.raw() else {
            self.mismatch("an integer", &help);
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() && !self.span().is_empty() {
            self.fault("is out of range", &help);
        }
        number
    }

    /// True or false.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.raw() {
            DeValue::Boolean(boolean) => Some(*boolean),
            _ => {
                self.mismatch("true or false", "write it without quotes");
                None
            }
        }
    }

    /// The values of an array.
    pub(super) fn array(&self, help: &str) -> Option<Vec<Value<'a>>> {
        let DeValue::Array(values) = self.raw() else {
            self.mismatch("an array", help);
            return None;
        };
        let name = format!("an entry of {}", self.name);
        Some(values.iter().map(|value| Value { document: self.document, value, name: name.clone() }).collect())
    }

    /// A table, with what messages call it.
    pub(super) fn table(&self, name: &str, help: &str) -> Option<Table<'a>> {
        match self.raw() {
            DeValue::Table(table) => Some(Table::new(self.document, table, self.span(), name)),
            _ => {
                self.mismatch("a table", help);
                None
            }
        }
    }

    /// The place of a string's content.
    fn content(&self) -> Range<usize> {
        let span = self.span();
        let content = text::content(self.document.text.get(span.clone()).unwrap_or_default());
        span.start + content.start..span.start + content.end
    }

    /// Where bytes of the decoded string are in the file.
    fn place(&self, decoded: &str, bytes: &Range<usize>) -> Range<usize> {
        let span = self.content();
        let raw = self.document.text.get(span.clone()).unwrap_or_default();
        let escapes = self.document.text.get(self.span()).is_some_and(|raw| raw.starts_with('"'));
        match text::locate(raw, escapes, decoded, bytes) {
            Some(place) => span.start + place.start..span.start + place.end,
            None => span,
        }
    }
}

/// The text in quotes, unless it is from the environment and must not be shown.
pub(crate) fn quoted(text: &Spanned<String>) -> String {
    if text.from_env { "what the environment makes of it".to_owned() } else { format!("`{}`", text.value) }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {noun}")
}

fn environment_fault(span: Range<usize>, trouble: Trouble) -> Fault {
    match trouble {
        Trouble::Unset(name) => Fault::new(span, format!("the environment variable `{name}` is not set"))
            .label("not set")
            .help(format!("set it, or write `$${{{name}}}` if you mean these very characters")),
        Trouble::Malformed => Fault::new(span, "`${` does not begin the name of a variable here")
            .help("write `${NAME}` for an environment variable, or `$${` if you mean these very characters"),
    }
}
