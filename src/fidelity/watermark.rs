//! Watermarks: what a task says of the event times of the rows that it is still going to publish.

use std::fmt;
use std::str::FromStr;

use crate::bus::Micros;

/// What a task says of the rows that come behind what it has published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watermark {
    /// None of them is older, but for such as are late.
    Time(Micros),
    /// There are none for now, and nobody is to wait for them.
    Idle,
    /// There are none.
    End,
}

/// A watermark with the number of times that sources before it had come to their ends and gone on. A task that says that it is at
/// its end may not have heard yet that there is more; one that has heard it has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// The watermark.
    pub watermark: Watermark,
    /// The number.
    pub run: u64,
}

/// A text that is no watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no watermark")]
pub struct Malformed;

impl Watermark {
    /// What those who publish to the same place say together; `None` where one of them has said nothing yet.
    pub fn of_all(watermarks: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        let together = |one: Self, other: Self| match (one, other) {
            (Self::Time(one), Self::Time(other)) => Self::Time(one.min(other)),
            (Self::Time(time), _) | (_, Self::Time(time)) => Self::Time(time),
            (Self::Idle, _) | (_, Self::Idle) => Self::Idle,
            (Self::End, Self::End) => Self::End,
        };
        watermarks.into_iter().try_fold(Self::End, |sum, next| Some(together(sum, next?)))
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(micros) => micros.fmt(f),
            Self::Idle => f.write_str("idle"),
            Self::End => f.write_str("end"),
        }
    }
}

impl FromStr for Watermark {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "idle" => Ok(Self::Idle),
            "end" => Ok(Self::End),
            micros => micros.parse().map(Self::Time).map_err(|_| Malformed),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.watermark.fmt(f)?;
        if self.run > 0 { write!(f, " {}", self.run) } else { Ok(()) }
    }
}

impl FromStr for Said {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (watermark, run) = text.split_once(' ').unwrap_or((text, "0"));
        Ok(Self { watermark: watermark.parse()?, run: run.parse().map_err(|_| Malformed)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_watermark() -> impl Strategy<Value = Watermark> {
        prop_oneof![any::<Micros>().prop_map(Watermark::Time), Just(Watermark::Idle), Just(Watermark::End)]
    }

    proptest! {
        #[test]
        fn one_is_read_as_it_was_written(watermark in any_watermark(), run: u64) {
            for said in [Said { watermark, run }, Said { watermark, run: 0 }] {
                prop_assert_eq!(said.to_string().parse(), Ok(said));
            }
        }

        #[test]
        fn the_slowest_of_those_that_have_rows_counts(all in proptest::collection::vec(any_watermark(), 1..5)) {
            let times = all.iter().filter_map(|it| if let Watermark::Time(time) = it { Some(*time) } else { None });
            let expected = match times.min() {
                Some(time) => Watermark::Time(time),
                None if all.contains(&Watermark::Idle) => Watermark::Idle,
                None => Watermark::End,
            };
            prop_assert_eq!(Watermark::of_all(all.iter().copied().map(Some)), Some(expected));
            prop_assert_eq!(Watermark::of_all(all.iter().copied().map(Some).chain([None])), None);
        }
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "End", "1.5", "9223372036854775808", "end -1", "end 1 2"] {
            assert_eq!(text.parse::<Said>(), Err(Malformed), "{text}");
        }
    }
}
