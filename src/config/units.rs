//! Durations, sizes and names as they are written in pipeline files.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A duration such as `100ms`, `30s`, `5m`, `24h` or `7d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    measure(text, &DURATIONS).map(Duration::from_millis)
}

/// A number of bytes such as `512B`, `64MiB` or `1GB`.
pub(super) fn size(text: &str) -> Option<u64> {
    measure(text, &SIZES)
}

/// A whole number and its unit.
fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit = text.get(digits..)?.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// Whether a word may be part of a topic's name: `[a-z][a-z0-9-]*`.
pub(super) fn is_topic_word(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The word nearest to the given one that may be part of a topic's name.
pub(super) fn to_topic_word(word: &str) -> Option<String> {
    let word: String = word
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let word = word.trim_matches('-');
    is_topic_word(word).then(|| word.to_owned())
}

/// Whether a word may be the type of an event: `[A-Z][A-Za-z0-9]*`.
pub(super) fn is_event_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The word nearest to the given one that may be the type of an event.
pub(super) fn to_event_name(word: &str) -> Option<String> {
    let parts = word.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    let word: String = parts
        .map(|part| part.get(..1).unwrap_or_default().to_ascii_uppercase() + part.get(1..).unwrap_or_default())
        .collect();
    is_event_name(&word).then_some(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(duration("7 d"), Some(Duration::from_secs(604_800)));
        for bad in ["", "5", "h", "-1s", "1.5h", "5 minutes", "1h30m", "99999999999999999999d", "9999999999999999d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_decimal_or_binary_as_their_unit_says() {
        assert_eq!(size("1GB"), Some(1_000_000_000));
        assert_eq!(size("64MiB"), Some(67_108_864));
        for bad in ["", "1", "GB", "1gb", "1 GB!", "99999999TiB"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_that_break_the_rules_are_turned_into_ones_that_do_not() {
        assert_eq!(to_topic_word("My_Stage").as_deref(), Some("my-stage"));
        assert_eq!(to_topic_word("1st"), None);
        assert_eq!(to_event_name("severe_delay").as_deref(), Some("SevereDelay"));
        assert_eq!(to_event_name("é"), None);
    }

    proptest! {
        #[test]
        fn what_is_proposed_keeps_the_rules(word in ".*") {
            prop_assert!(to_topic_word(&word).is_none_or(|word| is_topic_word(&word)));
            prop_assert!(to_event_name(&word).is_none_or(|word| is_event_name(&word)));
        }
    }
}
