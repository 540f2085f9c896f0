//! Instants and dates as text, RFC 3339: `2024-01-01T00:00:00.001Z`. Times of day are Arrow's affair, and so is reading dates.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::compute::{cast, max, min};
use arrow::datatypes::{
    DataType, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};

use crate::bus::Micros;

const SECONDS_A_DAY: i64 = 86_400;

/// How many of the unit are in a second.
pub(super) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Nanoseconds in the unit of a timestamp; `None` of another type.
pub(crate) fn tick(time: &DataType) -> Option<i64> {
    match time {
        DataType::Timestamp(unit, _) => Some(1_000_000_000 / per_second(*unit)),
        _ => None,
    }
}

/// The instant in units since the epoch. Without an offset it is UTC; `None` if it is no instant, is out of range or is
/// finer than the unit.
pub(super) fn parse(text: &str, unit: TimeUnit) -> Option<i64> {
    let per_second = per_second(unit);
    let (seconds, nanos) = match rfc3339(text.as_bytes()) {
        Some(instant) => instant,
        // Arrow would drop what is finer than nanoseconds.
        None if text.contains('.') => return None,
        None => {
            let nanos = string_to_timestamp_nanos(text).ok()?;
            (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000))
        }
    };
    let nanos_a_unit = 1_000_000_000 / per_second;
    // By way of i128, since seconds alone can be out of range where seconds and a fraction together are not.
    let units = i128::from(seconds) * i128::from(per_second) + i128::from(nanos / nanos_a_unit);
    if nanos % nanos_a_unit == 0 { i64::try_from(units).ok() } else { None }
}

/// Seconds since the epoch, and nanoseconds on top.
fn rfc3339(text: &[u8]) -> Option<(i64, i64)> {
    let (head, rest) = text.split_first_chunk::<19>()?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T' | b't' | b' ', h0, h1, b':', n0, n1, b':', s0, s1] = *head
    else {
        return None;
    };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    let (month, day) = (two(m0, m1)?, two(d0, d1)?);
    let (hour, minute, second) = (two(h0, h1)?, two(n0, n1)?, two(s0, s1)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, rest) = fraction(rest)?;
    let seconds = days(year, month, day) * SECONDS_A_DAY + hour * 3600 + minute * 60 + second - offset(rest)?;
    Some((seconds, nanos))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    Some(digit(tens)? * 10 + digit(ones)?)
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte - b'0'))
}

/// Nanoseconds, and what follows them.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', digits)) = text.split_first() else {
        return Some((0, text));
    };
    let (mut nanos, mut unit, mut rest) = (0, 100_000_000, digits);
    while let Some((value, after)) = rest.split_first().and_then(|(byte, after)| Some((digit(*byte)?, after))) {
        // A tenth digit is finer than anything that can be kept.
        if unit == 0 && value != 0 {
            return None;
        }
        nanos += value * unit;
        unit /= 10;
        rest = after;
    }
    (rest.len() < digits.len()).then_some((nanos, rest))
}

/// Seconds that the text's zone is ahead of UTC.
fn offset(text: &[u8]) -> Option<i64> {
    match *text {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] | [sign @ (b'+' | b'-'), h0, h1, m0, m1] => {
            let (hours, minutes) = (two(h0, h1)?, two(m0, m1)?);
            let seconds = hours * 3600 + minutes * 60;
            (hours < 24 && minutes < 60).then_some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the epoch, by Howard Hinnant's `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day, by Howard Hinnant's `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Appends the date that is so many days after the epoch, with a year as in [`write`].
pub(super) fn write_date(days: i64, to: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        let ([y0, y1], [y2, y3]) = (pair(year / 100), pair(year));
        to.extend([y0, y1, y2, y3]);
    } else {
        to.extend(format!("{year:+05}").bytes());
    }
    let ([m0, m1], [d0, d1]) = (pair(month), pair(day));
    to.extend([b'-', m0, m1, b'-', d0, d1]);
}

/// Appends the instant, in UTC, with no, three, six or nine decimals, as many as it needs. Outside the years 0 to 9999,
/// which RFC 3339 ends at, the year has a sign, as in ISO 8601.
pub(super) fn write(value: i64, unit: TimeUnit, to: &mut Vec<u8>) {
    let per_second = per_second(unit);
    let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    write_date(seconds.div_euclid(SECONDS_A_DAY), to);
    let second = seconds.rem_euclid(SECONDS_A_DAY);
    let ([h0, h1], [n0, n1], [s0, s1]) = (pair(second / 3600), pair(second / 60 % 60), pair(second % 60));
    to.extend([b'T', h0, h1, b':', n0, n1, b':', s0, s1]);
    write_fraction(fraction * (1_000_000_000 / per_second), to);
    to.push(b'Z');
}

/// The last two digits.
fn pair(value: i64) -> [u8; 2] {
    let value = value.rem_euclid(100) as u8;
    [b'0' + value / 10, b'0' + value % 10]
}

fn write_fraction(nanos: i64, to: &mut Vec<u8>) {
    if nanos == 0 {
        return;
    }
    to.push(b'.');
    for group in [nanos / 1_000_000, nanos / 1_000 % 1_000, nanos % 1_000] {
        let [tens, ones] = pair(group % 100);
        to.extend([b'0' + (group / 100) as u8, tens, ones]);
    }
    while to.ends_with(b"000") {
        to.truncate(to.len() - 3);
    }
}

/// An instant, in microseconds since the epoch, as text.
pub(crate) fn instant(micros: Micros) -> String {
    let mut text = Vec::with_capacity(32);
    write(micros, TimeUnit::Microsecond, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The instant that a text says, in microseconds since the epoch; `None` if it is none.
pub(crate) fn micros(text: &str) -> Option<Micros> {
    parse(text, TimeUnit::Microsecond)
}

/// The instant in a row of a timestamp column; `None` if it is null, or the column holds something else.
pub(crate) fn micros_at(column: &ArrayRef, row: usize) -> Option<Micros> {
    let DataType::Timestamp(unit, _) = column.data_type() else { return None };
    if column.is_null(row) {
        return None;
    }
    match unit {
        TimeUnit::Second => column.as_primitive::<TimestampSecondType>().value(row).checked_mul(1_000_000),
        TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().value(row).checked_mul(1_000),
        TimeUnit::Microsecond => Some(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        TimeUnit::Nanosecond => Some(column.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000)),
    }
}

/// The greatest instant of a column, in whole microseconds since the epoch; `None` where there is none, or it does not fit.
pub(crate) fn greatest_micros(column: &ArrayRef) -> Option<Micros> {
    extreme_micros(column, max)
}

/// The least instant of a column; see [`greatest_micros`].
pub(crate) fn least_micros(column: &ArrayRef) -> Option<Micros> {
    extreme_micros(column, min)
}

fn extreme_micros(column: &ArrayRef, extreme: fn(&Int64Array) -> Option<i64>) -> Option<Micros> {
    let tick = tick(column.data_type())?;
    let units = cast(column, &DataType::Int64).ok()?;
    let micros = i128::from(extreme(units.as_primitive::<Int64Type>())?) * i128::from(tick);
    Micros::try_from(micros.div_euclid(1_000)).ok()
}

/// The instants of a column, in whole microseconds since the epoch; of a null, or one that does not fit, the least there is.
pub(crate) fn all_micros(column: &ArrayRef) -> Vec<Micros> {
    let micros = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None));
    let micros = micros.and_then(|micros| cast(&micros, &DataType::Int64));
    match micros {
        Ok(micros) => micros.as_primitive::<Int64Type>().iter().map(|it| it.unwrap_or(Micros::MIN)).collect(),
        Err(_) => vec![Micros::MIN; column.len()],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: i64, unit: TimeUnit) -> String {
        let mut text = Vec::new();
        write(value, unit, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn instants_are_read_in_every_usual_way_of_writing_them() {
        for (written, nanos) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00.5z", 500_000_000),
            ("1970-01-01 00:00:00", 0),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:59:59.999999999-0000", -1),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000_000),
            ("2013-01-01", 1_356_998_400_000_000_000),
            ("2262-04-11T23:47:16.854775807Z", i64::MAX),
            ("1677-09-21T00:12:43.145224192Z", i64::MIN),
        ] {
            assert_eq!(parse(written, TimeUnit::Nanosecond), Some(nanos), "{written}");
        }
    }

    #[test]
    fn what_is_no_instant_is_not_read() {
        for written in [
            "",
            "yesterday",
            "2013-02-29T00:00:00Z",
            "2013-13-01T00:00:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T00:00:00.Z",
            "2013-01-01T00:00:00+99:00",
            "2262-04-11T23:47:16.854775808Z",
            "2013-01-01T00:00:00.0000000001Z",
        ] {
            assert_eq!(parse(written, TimeUnit::Nanosecond), None, "{written}");
        }
        assert_eq!(parse("2013-01-01T00:00:00.0005Z", TimeUnit::Millisecond), None);
        assert_eq!(parse("9999-12-31T23:59:59Z", TimeUnit::Second), Some(253_402_300_799));
    }

    #[test]
    fn instants_are_written_with_as_many_decimals_as_they_need() {
        assert_eq!(text(0, TimeUnit::Second), "1970-01-01T00:00:00Z");
        assert_eq!(text(1, TimeUnit::Millisecond), "1970-01-01T00:00:00.001Z");
        assert_eq!(text(-1, TimeUnit::Microsecond), "1969-12-31T23:59:59.999999Z");
        assert_eq!(text(1_000, TimeUnit::Nanosecond), "1970-01-01T00:00:00.000001Z");
        assert_eq!(text(1, TimeUnit::Nanosecond), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(text(-62_167_219_200, TimeUnit::Second), "0000-01-01T00:00:00Z");
        assert_eq!(text(-62_167_219_201, TimeUnit::Second), "-0001-12-31T23:59:59Z");
        assert_eq!(text(253_402_300_800, TimeUnit::Second), "+10000-01-01T00:00:00Z");
        assert!(text(i64::MAX, TimeUnit::Second).starts_with("+292277026596-12-04T"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_instant(value: i64, unit in 0usize..4) {
            let unit = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond][unit];
            prop_assume!(text(value, unit).len() <= 30 && !text(value, unit).starts_with(['+', '-']));
            prop_assert_eq!(parse(&text(value, unit), unit), Some(value));
        }

        #[test]
        fn arrow_reads_the_same_from_it(value: i64) {
            let written = text(value, TimeUnit::Nanosecond);
            prop_assert_eq!(string_to_timestamp_nanos(&written).unwrap(), value);
        }

        #[test]
        fn no_text_panics(written in "[0-9TZ:+. -]{0,30}") {
            if let (Some(ours), Ok(arrows)) =
                (parse(&written, TimeUnit::Nanosecond), string_to_timestamp_nanos(&written))
            {
                prop_assert_eq!(ours, arrows);
            }
        }
    }
}
