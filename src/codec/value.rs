//! Columns out of values that stand as text: what JSON and CSV have in common. Where the text of a value starts and ends is
//! for them to find.
//!
//! A value that is not exactly one of the column's type is a fault, never a neighbour of it: `1.5` is no integer, `1e400`
//! no double, `0.001` no `decimal(10, 2)`, and an instant with microseconds no `timestamp(3)`. Zeros cost nothing: `1e3`
//! and `5.0` are integers. The names of the doubles that are no numbers are `NaN`, `Infinity` and `-Infinity`.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryBuilder, BooleanBuilder, PrimitiveBuilder, StringArray, StringBuilder,
};
use arrow::compute::kernels::cast_utils::parse_decimal;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{
    ArrowTimestampType, DataType, Decimal128Type, Decimal256Type, DecimalType, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::time;

/// A value, as the format has found it.
pub(super) enum Cell<'a> {
    /// There is none.
    Null,
    /// It may be one of the column's type.
    Text(Cow<'a, str>),
    /// It cannot be one, such as a JSON object where a number is due.
    Wrong(Cow<'a, str>),
}

/// What is wrong with the value at that place of the column.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) message: String,
}

/// Whether there is a way from text to the type.
pub(super) fn is_readable(data_type: &DataType) -> bool {
    can_cast_types(&DataType::Utf8, data_type) && !data_type.is_nested()
}

/// The column of `len` cells. Where a cell is at fault, the column is null.
pub(super) fn column<'a>(
    data_type: &DataType,
    len: usize,
    cell: impl Fn(usize) -> Cell<'a>,
    faults: &mut Vec<Fault>,
) -> ArrayRef {
    let mut cells = Cells { data_type, len, cell, faults };
    match data_type {
        DataType::Utf8 => cells.text(),
        DataType::Boolean => cells.boolean(),
        DataType::Int8 => cells.primitive::<Int8Type>(integer),
        DataType::Int16 => cells.primitive::<Int16Type>(integer),
        DataType::Int32 => cells.primitive::<Int32Type>(integer),
        DataType::Int64 => cells.primitive::<Int64Type>(integer),
        DataType::UInt8 => cells.primitive::<UInt8Type>(integer),
        DataType::UInt16 => cells.primitive::<UInt16Type>(integer),
        DataType::UInt32 => cells.primitive::<UInt32Type>(integer),
        DataType::UInt64 => cells.primitive::<UInt64Type>(integer),
        DataType::Float32 => cells.primitive::<Float32Type>(|text| float(text, f32::is_finite)),
        DataType::Float64 => cells.primitive::<Float64Type>(|text| float(text, f64::is_finite)),
        DataType::Timestamp(TimeUnit::Second, _) => cells.timestamp::<TimestampSecondType>(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => cells.timestamp::<TimestampMillisecondType>(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => cells.timestamp::<TimestampMicrosecondType>(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => cells.timestamp::<TimestampNanosecondType>(),
        DataType::Decimal128(precision, scale) => cells.decimal::<Decimal128Type>(*precision, *scale),
        DataType::Decimal256(precision, scale) => cells.decimal::<Decimal256Type>(*precision, *scale),
        DataType::Binary => cells.binary(),
        _ => cells.cast(),
    }
}

struct Cells<'c, F> {
    data_type: &'c DataType,
    len: usize,
    cell: F,
    faults: &'c mut Vec<Fault>,
}

impl<'a, F: Fn(usize) -> Cell<'a>> Cells<'_, F> {
    /// Gives each value that `parse` makes of a cell, or `None`, to `append`.
    fn each<T>(&mut self, parse: impl Fn(&str) -> Option<T>, mut append: impl FnMut(Option<T>)) {
        for at in 0..self.len {
            append(match (self.cell)(at) {
                Cell::Null => None,
                Cell::Text(text) => parse(&text).or_else(|| self.fault(at, &text)),
                Cell::Wrong(text) => self.fault(at, &text),
            });
        }
    }

    #[cold]
    fn fault<T>(&mut self, at: usize, text: &str) -> Option<T> {
        let mut shown: String = text.chars().take(80).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        let message = format!("`{shown}` is not a value of type {}", crate::sql::type_name(self.data_type));
        self.faults.push(Fault { at, message });
        None
    }

    fn primitive<T: ArrowPrimitiveType>(&mut self, parse: impl Fn(&str) -> Option<T::Native>) -> ArrayRef {
        let mut builder = PrimitiveBuilder::<T>::with_capacity(self.len).with_data_type(self.data_type.clone());
        self.each(parse, |value| builder.append_option(value));
        Arc::new(builder.finish())
    }

    fn timestamp<T: ArrowTimestampType>(&mut self) -> ArrayRef {
        self.primitive::<T>(|text| time::parse(text, T::UNIT))
    }

    fn decimal<T: DecimalType>(&mut self, precision: u8, scale: i8) -> ArrayRef {
        let parse = |text: &str| parse_decimal::<T>(text, precision, scale).ok();
        self.primitive::<T>(|text| if decimals(text)? <= i64::from(scale) { parse(text) } else { None })
    }

    fn boolean(&mut self) -> ArrayRef {
        let mut builder = BooleanBuilder::with_capacity(self.len);
        let parse = |text: &str| match text {
            text if text.eq_ignore_ascii_case("true") => Some(true),
            text if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        };
        self.each(parse, |value| builder.append_option(value));
        Arc::new(builder.finish())
    }

    fn text(&mut self) -> ArrayRef {
        let mut builder = StringBuilder::with_capacity(self.len, self.len * 16);
        for at in 0..self.len {
            match (self.cell)(at) {
                Cell::Null => builder.append_null(),
                Cell::Text(text) => builder.append_value(text),
                Cell::Wrong(text) => builder.append_option(self.fault::<&str>(at, &text)),
            }
        }
        Arc::new(builder.finish())
    }

    fn binary(&mut self) -> ArrayRef {
        let mut builder = BinaryBuilder::new();
        self.each(hexadecimal, |value| builder.append_option(value));
        Arc::new(builder.finish())
    }

    /// By way of a column of text, for types of which there is seldom much.
    fn cast(&mut self) -> ArrayRef {
        let mut texts: Vec<Option<String>> = Vec::with_capacity(self.len);
        let data_type = self.data_type.clone();
        self.each(|text| Some(text.to_owned()), |text| texts.push(text));
        let options = CastOptions { safe: true, ..CastOptions::default() };
        let texts = StringArray::from(texts);
        let Ok(column) = cast_with_options(&texts, &data_type, &options) else {
            (0..self.len).for_each(|at| self.faults.push(Fault { at, message: "cannot be read".into() }));
            return arrow::array::new_null_array(&data_type, self.len);
        };
        for (at, text) in texts.iter().enumerate() {
            if let (Some(text), true) = (text, column.is_null(at)) {
                self.fault::<()>(at, text);
            }
        }
        column
    }
}

/// An integer, also if it is written with an exponent or with zeros behind the point.
fn integer<T: FromStr + TryFrom<i64>>(text: &str) -> Option<T> {
    text.parse().ok().or_else(|| {
        let value: f64 = text.parse().ok()?;
        // Beyond 2⁵³ not every integer is a double, so the text may have meant another one.
        (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0).then(|| T::try_from(value as i64).ok())?
    })
}

fn float<T: FromStr + Copy>(text: &str, is_finite: impl Fn(T) -> bool) -> Option<T> {
    let value: T = text.parse().ok()?;
    (is_finite(value) || matches!(text, "NaN" | "Infinity" | "-Infinity")).then_some(value)
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
        _ => None,
    });
    pairs.collect()
}

/// How many decimals the number has, trailing zeros not counted; less than none if it ends in zeros before the point.
fn decimals(text: &str) -> Option<i64> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let decimals = mantissa.split_once('.').map_or("", |(_, decimals)| decimals.trim_end_matches('0'));
    Some(decimals.len() as i64 - exponent.parse::<i64>().ok()?)
}
