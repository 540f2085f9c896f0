//! What can be wrong with a row, and the dead letter it then becomes.

mod dead_letter;
mod narrow;

pub use dead_letter::{DeadLetter, Origin, PREFIX};
pub(crate) use narrow::narrow;

/// Why a row is of no use to a stage, whatever is tried: the class of its dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The bytes are not a row in the format they should be in.
    Decode,
    /// The row breaks the contract: a null, a type or a range that the schema rules out.
    Contract,
    /// An expression of the stage failed on it: a cast, an overflow, a division by zero.
    Expression,
    /// The row, or what became of it, is over a limit of size.
    TooLarge,
    /// It is in a topic of the pipeline, and somebody else than the topic's owner has published it.
    Foreign,
    /// A window that it is in has closed.
    Late,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 6] =
        [Class::Decode, Class::Contract, Class::Expression, Class::TooLarge, Class::Foreign, Class::Late];

    /// The class of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// The class as it stands in headers, metrics and listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Decode => "decode",
            Class::Contract => "contract",
            Class::Expression => "expression",
            Class::TooLarge => "too-large",
            Class::Foreign => "foreign",
            Class::Late => "late",
        }
    }
}

/// A row that goes no further, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Which row, counted from 0 in the batch or block at hand.
    pub row: usize,
    /// Why, as a class.
    pub class: Class,
    /// Why, for a person.
    pub message: String,
}
