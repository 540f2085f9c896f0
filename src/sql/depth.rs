//! How deep a query is nested. A chain such as `a + b + c + …` nests as deep as it is long, and each level costs stack
//! wherever the query is walked through, down to the evaluation of every batch. So queries are read and planned where there
//! is plenty of it, and those that are nested too deep go no further.

use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::thread;

use datafusion::sql::sqlparser::ast::{Expr, Query, SetExpr, Spanned, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::Tokenizer;

use super::{Fault, parse};

/// The most expressions, or set operations, that may be nested in one another.
const DEEPEST: usize = 250;
/// The most words and signs of a query: at two a level, what the stack below is enough for.
const LONGEST: usize = 100_000;
/// Only what is used of it is ever memory.
const STACK_BYTES: usize = 512 << 20;

/// Does what may need much stack.
pub(super) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Fault> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = spawned.map_err(|error| whole(format!("there is no memory to plan it in: {error}")))?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// The fault of a text that is too long to be looked at.
pub(super) fn too_long(sql: &str) -> Option<Fault> {
    // What is not even tokens is the parser's to say.
    let tokens = Tokenizer::new(&parse::DIALECT, sql).tokenize().ok()?.len();
    (tokens > LONGEST).then(|| whole(format!("a query of more than {LONGEST} words and signs is too long")))
}

/// The fault of the first expression that is nested too deep.
pub(super) fn too_deep(query: &Query, sql: &str) -> Option<Fault> {
    query.visit(&mut Depth { sql, now: 0 }).break_value()
}

fn whole(message: String) -> Fault {
    Fault { message, span: None, help: None }
}

struct Depth<'a> {
    sql: &'a str,
    now: usize,
}

impl Visitor for Depth<'_> {
    type Break = Fault;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Fault> {
        let (mut body, mut operations) = (&*query.body, 0);
        while let SetExpr::SetOperation { left, .. } = body {
            (body, operations) = (left, operations + 1);
        }
        match operations > DEEPEST {
            true => ControlFlow::Break(whole(format!("more than {DEEPEST} set operations such as UNION ALL in a row"))),
            false => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Fault> {
        self.now += 1;
        if self.now <= DEEPEST {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(Fault {
            message: format!(
                "more than {DEEPEST} expressions are nested in one another here, as the operators of a chain are"
            ),
            span: parse::bytes(self.sql, expr.span()),
            help: Some("write IN (…) for many comparisons, or compute parts of it in a stage of their own".into()),
        })
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<Fault> {
        self.now -= 1;
        ControlFlow::Continue(())
    }
}
