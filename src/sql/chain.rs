//! Chains of operators that are too long to be planned and evaluated. `a + b + c + …` nests as deep as it is long, and each
//! level costs stack wherever an expression is walked through. Nested parentheses and keywords are limited by the parser.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use super::{Fault, parse};

/// The most operators that may hang on one another.
const LONGEST: usize = 250;

/// What is between two parentheses, so far.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    /// Operators in a row.
    run: usize,
    /// The depth of the deepest operand of theirs.
    operand: usize,
    /// The greatest depth before the last comma or keyword.
    before: usize,
}

impl Level {
    fn depth(&self) -> usize {
        self.before.max(self.run + self.operand)
    }
}

/// The fault of the first operator that is one too many.
pub(super) fn too_long(sql: &str) -> Option<Fault> {
    // What is not even tokens is the parser's to say.
    let tokens = Tokenizer::new(&parse::DIALECT, sql).tokenize_with_location().ok()?;
    let (mut level, mut outer, mut unions) = (Level::default(), Vec::new(), 0);
    for token in tokens {
        match &token.token {
            Token::LParen => outer.push(std::mem::take(&mut level)),
            Token::RParen => {
                let inner = std::mem::replace(&mut level, outer.pop().unwrap_or_default()).depth();
                level.operand = level.operand.max(inner);
            }
            Token::Comma => level = Level { before: level.depth(), ..Level::default() },
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR => level.run += 1,
                Keyword::UNION => {
                    unions += 1;
                    level = Level::default();
                }
                Keyword::SELECT | Keyword::FROM | Keyword::WHERE | Keyword::WHEN | Keyword::THEN | Keyword::ELSE => {
                    level = Level { before: level.depth(), ..Level::default() };
                }
                _ => {}
            },
            token if is_operator(token) => level.run += 1,
            _ => {}
        }
        if level.run + level.operand > LONGEST || unions > LONGEST {
            return Some(fault(sql, token.span.start));
        }
    }
    None
}

/// Whether the token is an operator that can have itself as an operand without parentheses.
fn is_operator(token: &Token) -> bool {
    !matches!(
        token,
        Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Whitespace(_)
            | Token::Eq
            | Token::Neq
            | Token::Lt
            | Token::Gt
            | Token::LtEq
            | Token::GtEq
            | Token::RBracket
            | Token::SemiColon
            | Token::Period
            | Token::EOF
    )
}

fn fault(sql: &str, at: Location) -> Fault {
    let start = parse::offset(sql, at);
    Fault {
        message: format!("more than {LONGEST} operators hang on one another here"),
        span: Some(start..sql.len().min(start + 1)),
        help: Some(
            "write IN (…) for many comparisons with OR, or compute parts in a subquery or a stage of their own".into(),
        ),
    }
}
