//! Watermarks: what a task says of the event times of the rows that it is still going to publish.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bus::Micros;

/// What a task says of the rows that come behind what it has published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    /// None of them is older, but for such as are late: microseconds since 1970, the least there is where no time is known.
    pub time: Micros,
    /// Whether there are any.
    pub status: Status,
}

/// Whether a task has rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has.
    Active,
    /// It has none for now, and nobody is to wait for it.
    Idle,
    /// It has no more.
    End,
}

/// A watermark with the number of times that sources before it had come to their ends and gone on. A task that says that it is at
/// its end may not have heard yet that there is more; one that has heard it has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
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

impl Status {
    /// Of no known time.
    pub fn at_no_time(self) -> Watermark {
        Watermark { time: Micros::MIN, status: self }
    }
}

impl Watermark {
    /// What those who publish to the same place say together; `None` where one of them has said nothing yet. The slowest of those
    /// that have rows counts. Where none has, nobody waits for anybody, and it is as late as for the fastest.
    pub fn of_all(watermarks: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        let together = |one: Self, other: Self| match (one.status, other.status) {
            (Status::Active, Status::Active) => Self { time: one.time.min(other.time), ..one },
            (Status::Active, _) => one,
            (_, Status::Active) => other,
            (Status::Idle, _) => Self { time: one.time.max(other.time), ..one },
            _ => Self { time: one.time.max(other.time), ..other },
        };
        watermarks.into_iter().try_fold(Status::End.at_no_time(), |sum, next| Some(together(sum, next?)))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { watermark: Watermark { time, status }, run } = self;
        time.fmt(f)?;
        match status {
            Status::Active => {}
            Status::Idle => f.write_str(" idle")?,
            Status::End => f.write_str(" end")?,
        }
        if *run > 0 { write!(f, " {run}") } else { Ok(()) }
    }
}

impl FromStr for Said {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut words = text.split(' ').peekable();
        let time = words.next().and_then(|time| time.parse().ok()).ok_or(Malformed)?;
        let mut is = |word: &str| words.next_if_eq(&word).is_some();
        let status = match (is("idle"), is("end")) {
            (false, false) => Status::Active,
            (true, false) => Status::Idle,
            (false, true) => Status::End,
            (true, true) => return Err(Malformed),
        };
        let run = words.next().map_or(Ok(0), str::parse).map_err(|_| Malformed)?;
        match words.next() {
            Some(_) => Err(Malformed),
            None => Ok(Self { watermark: Watermark { time, status }, run }),
        }
    }
}

impl From<Said> for String {
    fn from(said: Said) -> Self {
        said.to_string()
    }
}

impl TryFrom<String> for Said {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_watermark() -> impl Strategy<Value = Watermark> {
        let status = prop_oneof![Just(Status::Active), Just(Status::Idle), Just(Status::End)];
        (any::<Micros>(), status).prop_map(|(time, status)| Watermark { time, status })
    }

    proptest! {
        #[test]
        fn one_is_read_as_it_was_written(watermark in any_watermark(), run: u64) {
            for said in [Said { watermark, run }, Said { watermark, run: 0 }] {
                prop_assert_eq!(said.to_string().parse(), Ok(said));
            }
        }

        #[test]
        fn the_slowest_of_those_that_have_rows_counts_and_of_those_that_have_none_the_fastest(
            all in proptest::collection::vec(any_watermark(), 1..5),
        ) {
            let active = all.iter().filter(|it| it.status == Status::Active).map(|it| it.time);
            let fastest = all.iter().map(|it| it.time).max().unwrap();
            let is_idle = all.iter().any(|it| it.status == Status::Idle);
            let expected = match active.min() {
                Some(time) => Watermark { time, status: Status::Active },
                None => Watermark { time: fastest, status: if is_idle { Status::Idle } else { Status::End } },
            };
            prop_assert_eq!(Watermark::of_all(all.iter().copied().map(Some)), Some(expected));
            prop_assert_eq!(Watermark::of_all(all.iter().copied().map(Some).chain([None])), None);
        }
    }

    #[test]
    fn texts_are_short() {
        let said = |time, status, run| Said { watermark: Watermark { time, status }, run }.to_string();
        assert_eq!(said(5, Status::Active, 0), "5");
        assert_eq!(said(-5, Status::Active, 2), "-5 2");
        assert_eq!(said(5, Status::Idle, 0), "5 idle");
        assert_eq!(said(5, Status::End, 2), "5 end 2");
    }

    #[test]
    fn other_texts_are_none() {
        for text in
            ["", "end", "5 End", "1.5", "9223372036854775808", "5 end -1", "5 end 1 2", "5 idle end", "5 ", "5  1"]
        {
            assert_eq!(text.parse::<Said>(), Err(Malformed), "{text}");
        }
    }
}
