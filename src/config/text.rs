//! What the strings of a pipeline file mean: `${NAME}` filled in from the environment, and where in the file each byte
//! of a decoded string is written.

use std::fmt;
use std::ops::Range;

/// The environment, as a function from a variable's name to its value.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Why a `$` in a string means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// `${NAME}` of a variable that is not set.
    Unset(String),
    /// `${` that no name and `}` follow.
    Malformed,
}

/// A text with its variables filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expanded {
    /// The text.
    pub text: String,
    /// Whether any of it is from the environment.
    pub from_env: bool,
}

/// Replaces every `${NAME}` by what the environment says and `$${` by `${`, or says what is wrong where.
pub(super) fn expand(text: &str, env: &Env) -> Result<Expanded, Vec<(Range<usize>, Trouble)>> {
    let mut out = String::with_capacity(text.len());
    let mut from_env = false;
    let mut troubles = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..) {
        let Some(found) = rest.find('$') else {
            out.push_str(rest);
            break;
        };
        out.push_str(rest.get(..found).unwrap_or_default());
        let here = at + found;
        let dollar = rest.get(found..).unwrap_or_default();
        at = here
            + if dollar.starts_with("$${") {
                out.push_str("${");
                3
            } else if let Some(inner) = dollar.strip_prefix("${") {
                match variable(inner) {
                    None => {
                        troubles.push((here..here + 2, Trouble::Malformed));
                        2
                    }
                    Some(name) => {
                        let written = name.len() + 3;
                        match env(name) {
                            Some(value) => out.push_str(&value),
                            None => troubles.push((here..here + written, Trouble::Unset(name.to_owned()))),
                        }
                        from_env = true;
                        written
                    }
                }
            } else {
                out.push('$');
                1
            };
    }
    if troubles.is_empty() { Ok(Expanded { text: out, from_env }) } else { Err(troubles) }
}

/// What the environment makes of the `${NAME}`s of a pipeline file, so that it can be kept out of what is said later.
#[derive(Clone, Default)]
pub struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// The shortest value that is looked for in a text: a shorter one would be found where it only happens to stand.
    const SHORTEST_BYTES: usize = 4;

    /// Those of a file.
    pub(super) fn of(text: &str, env: &Env) -> Self {
        let names = text.match_indices("${").filter_map(|(at, opening)| variable(text.get(at + opening.len()..)?));
        let values = names.filter_map(|name| Some((name.to_owned(), env(name)?)));
        Self(values.filter(|(_, value)| value.len() >= Self::SHORTEST_BYTES).collect())
    }

    /// The text with the name of the variable in place of each value.
    pub fn conceal(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(value, &format!("${{{name}}}")))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The name of the variable in what follows `${`.
fn variable(inner: &str) -> Option<&str> {
    let (name, _) = inner.split_once('}')?;
    let mut chars = name.chars();
    let first = chars.next()?;
    let good = (first.is_ascii_alphabetic() || first == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    good.then_some(name)
}

/// The place of a string's content in its TOML form: without the delimiters, and without the line break that may follow
/// the opening one.
pub(super) fn content(raw: &str) -> Range<usize> {
    let width = if raw.len() >= 6 && (raw.starts_with("\"\"\"") || raw.starts_with("'''")) { 3 } else { 1 };
    let (mut start, end) = (width.min(raw.len()), raw.len().saturating_sub(width));
    if width == 3 {
        let inner = raw.get(start..).unwrap_or_default();
        start += if inner.starts_with("\r\n") { 2 } else { usize::from(inner.starts_with('\n')) };
    }
    if start <= end { start..end } else { 0..raw.len() }
}

/// Where bytes of a decoded string are written in `raw`, its content in the file; `None` if the string is not what
/// `raw` says. `escapes` tells whether a backslash in `raw` is one.
pub(super) fn locate(raw: &str, escapes: bool, decoded: &str, bytes: &Range<usize>) -> Option<Range<usize>> {
    let mut at = 0;
    let (mut start, mut end) = (None, None);
    for (index, c) in decoded.char_indices() {
        at += if escapes { joined_lines(raw.get(at..)?) } else { 0 };
        let width = written_width(raw.get(at..)?, escapes, c)?;
        if start.is_none() && index + c.len_utf8() > bytes.start {
            start = Some(at);
        }
        if index >= bytes.end && end.is_none() {
            end = Some(at);
        }
        at += width;
    }
    let start = start.unwrap_or(at);
    Some(start..end.unwrap_or(at).max(start))
}

/// The width of a backslash at the end of a line and of all the white space that it takes with it.
fn joined_lines(raw: &str) -> usize {
    let Some(rest) = raw.strip_prefix('\\') else { return 0 };
    let text = rest.trim_start_matches([' ', '\t', '\r', '\n']);
    let blank = rest.len() - text.len();
    let joins = rest.get(..blank).is_some_and(|blank| blank.contains('\n'));
    if joins { 1 + blank + joined_lines(text) } else { 0 }
}

/// How many bytes of `raw` write the character.
fn written_width(raw: &str, escapes: bool, c: char) -> Option<usize> {
    let first = raw.chars().next()?;
    match first {
        '\\' if escapes => match raw.chars().nth(1)? {
            'x' => Some(4),
            'u' => Some(6),
            'U' => Some(10),
            _ => Some(2),
        },
        _ if first == c => Some(c.len_utf8()),
        '\r' if c == '\n' && raw.starts_with("\r\n") => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "SECRET").then(|| "hush".to_owned())
    }

    fn expanded(text: &str) -> String {
        expand(text, &env).unwrap().text
    }

    #[test]
    fn variables_are_filled_in_and_two_dollars_escape_them() {
        assert_eq!(expanded("a ${SECRET} b"), "a hush b");
        assert_eq!(expanded("$${SECRET}"), "${SECRET}");
        assert_eq!(expanded("$1 $ $$"), "$1 $ $$");
        assert!(expand("${SECRET}", &env).unwrap().from_env);
        assert!(!expand("$${SECRET}", &env).unwrap().from_env);
    }

    #[test]
    fn every_variable_that_is_not_set_is_found_at_its_place() {
        let troubles = expand("${A}-${SECRET}-${B}${", &env).unwrap_err();
        let places: Vec<_> = troubles.iter().map(|(range, _)| range.clone()).collect();
        assert_eq!(places, [0..4, 15..19, 19..21]);
    }

    #[test]
    fn the_value_of_a_variable_is_not_expanded_again() {
        let env = |_: &str| Some("${X}".to_owned());
        assert_eq!(expand("${A}", &env).unwrap().text, "${X}");
    }

    /// The piece of the TOML string that writes the needle of what the string decodes to.
    fn written(toml: &str, needle: &str) -> String {
        let document = format!("x = {toml}");
        let table = toml::de::DeTable::parse(&document).unwrap();
        let decoded = table.get_ref().get("x").unwrap().get_ref().as_str().unwrap().to_owned();
        let raw = &toml[content(toml)];
        let at = decoded.find(needle).unwrap();
        let place = locate(raw, !toml.starts_with('\''), &decoded, &(at..at + needle.len())).unwrap();
        raw[place].to_owned()
    }

    #[test]
    fn a_place_in_a_string_is_found_whatever_way_the_string_is_written() {
        assert_eq!(written(r#""SELECT abc""#, "abc"), "abc");
        assert_eq!(written("'SELECT abc'", "abc"), "abc");
        assert_eq!(written("\"\"\"\nSELECT\n  abc\n\"\"\"", "abc"), "abc");
        assert_eq!(written("'''\r\nSELECT\r\n  abc'''", "abc"), "abc");
        assert_eq!(written(r#""SELECT \"abc\", d""#, "\"abc\""), r#"\"abc\""#);
        assert_eq!(written(r#""\u00e9\t\x41 abc d""#, "abc"), "abc");
        assert_eq!(written("\"\"\"SELECT \\\n   abc d\"\"\"", "abc"), "abc");
        assert_eq!(written("\"\"\"a \"\"quoted\"\" b\"\"\"", "b"), "b");
    }

    #[test]
    fn a_string_that_is_not_what_stands_there_has_no_places() {
        assert_eq!(locate("${A} b", true, "hush b", &(5..6)), None);
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_stays_as_it_is(text in "[^$]*") {
            prop_assert_eq!(expanded(&text), text);
        }

        #[test]
        fn any_text_is_expanded_or_refused_without_panic(text in "[${}A-C é]*") {
            if let Err(troubles) = expand(&text, &env) {
                for (range, _) in troubles {
                    prop_assert!(text.get(range).is_some());
                }
            }
        }

        #[test]
        fn places_are_on_character_boundaries(raw in "[a-é\\\\\n\r\" ux0-9]*", decoded in "[a-é\n\" ]*", start in 0usize..20, width in 0usize..20) {
            if let Some(place) = locate(&raw, true, &decoded, &(start..start + width)) {
                prop_assert!(place.start <= place.end);
            }
        }
    }
}
