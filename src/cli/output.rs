//! Writing to standard output, and units as a person writes them.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Prints a text as it is. A reader that has gone away, such as `head`, has seen enough.
pub(super) fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::from(super::FAILED),
        _ => ExitCode::SUCCESS,
    }
}

/// Prints a value as indented JSON.
pub(super) fn print_json(value: &serde_json::Value) -> ExitCode {
    print(&format!("{value:#}\n"))
}

/// A number and its noun.
pub(super) fn counted(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A duration as pipeline files have it, such as `7d`.
pub(super) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let unit = units.into_iter().find(|(_, factor)| millis > 0 && millis.is_multiple_of(*factor));
    let (unit, factor) = unit.unwrap_or(("ms", 1));
    format!("{}{unit}", millis / factor)
}

/// A size as pipeline files have it, such as `64MiB`.
pub(super) fn size(bytes: u64) -> String {
    let units = [
        ("TB", 1_000_000_000_000),
        ("TiB", 1 << 40),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("KB", 1_000),
        ("KiB", 1 << 10),
    ];
    let unit = units.into_iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    let (unit, factor) = unit.unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_largest_that_lose_nothing() {
        assert_eq!(duration(Duration::from_secs(7 * 86_400)), "7d");
        assert_eq!(duration(Duration::from_secs(90)), "90s");
        assert_eq!(duration(Duration::ZERO), "0ms");
        assert_eq!(size(1_000_000_000), "1GB");
        assert_eq!(size(64 << 20), "64MiB");
        assert_eq!(size(1001), "1001B");
    }
}
