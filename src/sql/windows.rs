//! Windows over event time: `tumble`, `hop` and `session` in FROM. They are queries around the input, which has two columns more,
//! `window_start` and `window_end`, and a row more for each window. A row of a session has the bounds of a session of its own
//! until those of all its rows are known.
//!
//! Windows are half open: a row at the end of one is in the next. They are counted from 1970-01-01T00:00:00Z, or from as
//! much later as the offset says, in both directions; days have 24 hours.

mod bounds;
mod marks;
mod starts;

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF, lit};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, Ident, ObjectName, Query, Spanned, TableAlias, TableFactor, TableFunctionArgs,
    Value, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Span;

use super::catalog::Catalog;
use super::{Fault, parse, types};
#[cfg(test)]
pub(super) use bounds::is_marked;
pub(super) use bounds::{Bound, bound, forgotten, shared};
pub(super) use marks::ForgetMarks;

const DAY: i64 = 86_400_000_000_000;

/// The most windows that a row can be in where it is a row for each of them.
pub(super) const MOST: i64 = 100;

/// The columns that a window adds. Those of the input of these names give way, so that windows can be made of windows.
const COLUMNS: [&str; 2] = ["window_start", "window_end"];

/// A function that puts rows into windows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Windows {
    Tumble,
    Hop,
    Session,
}

impl Windows {
    fn named(name: &ObjectName) -> Option<Self> {
        match name.to_string().to_lowercase().as_str() {
            "tumble" => Some(Self::Tumble),
            "hop" => Some(Self::Hop),
            "session" => Some(Self::Session),
            _ => None,
        }
    }

    /// The arguments; `None` where they are not those of the function.
    fn call(self, args: &TableFunctionArgs) -> Option<Call> {
        let expr = |arg: &FunctionArg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        };
        let args: Option<Vec<ast::Expr>> = args.args.iter().map(expr).collect();
        let mut args = args?.into_iter();
        let (input, time) = (table(args.next()?)?, args.next()?);
        let slide = if self == Self::Hop { Some(args.next()?) } else { None };
        let size = args.next()?;
        if self == Self::Session {
            let keys = args.map(|arg| if let ast::Expr::Identifier(name) = arg { Some(name) } else { None });
            return Some(Call { input, time, slide, size, offset: None, keys: keys.collect::<Option<_>>()? });
        }
        let offset = args.next();
        args.next().is_none().then_some(Call { input, time, slide, size, offset, keys: Vec::new() })
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Tumble => "write it as tumble(input, column, INTERVAL '1 hour')",
            Self::Hop => {
                "write it as hop(input, column, INTERVAL '10 minutes', INTERVAL '1 hour'): the slide, then the size"
            }
            Self::Session => {
                "write it as session(input, column, INTERVAL '30 minutes', user): the gap, then whose sessions they are"
            }
        }
    }
}

/// Its arguments, in their order.
struct Call {
    input: TableFactor,
    time: ast::Expr,
    slide: Option<ast::Expr>,
    size: ast::Expr,
    offset: Option<ast::Expr>,
    /// The columns that the rows of a session share.
    keys: Vec<Ident>,
}

/// The function of that name that only queries around windows call.
pub(super) fn function(name: &str) -> Option<&'static Arc<ScalarUDF>> {
    starts::FUNCTIONS.iter().chain(bounds::FUNCTIONS.iter()).find(|function| function.name() == name)
}

/// Whether it is the function that puts rows into windows.
pub(super) fn are_begun_by(function: &ScalarUDF) -> bool {
    starts::FUNCTIONS.iter().any(|starts| starts.name() == function.name())
}

/// Whether an expression puts rows into windows.
pub(super) fn are_begun_in(expr: &Expr) -> bool {
    let begins = |expr: &Expr| matches!(expr, Expr::ScalarFunction(call) if are_begun_by(&call.func));
    expr.exists(|expr| Ok(begins(expr))).unwrap_or(true)
}

/// Whether it is the function that gives all windows of a time.
pub(super) fn are_several(function: &ScalarUDF) -> bool {
    function.name() == starts::SEVERAL
}

/// The function that gives the only window of a time.
pub(super) fn of_one() -> Option<&'static Arc<ScalarUDF>> {
    function(starts::ONE)
}

/// Whether it is a function that gives a bound of a window.
pub(super) fn are_bounds(function: &ScalarUDF) -> bool {
    bounds::FUNCTIONS.iter().any(|bounds| bounds.name() == function.name())
}

/// Whether it is a call that marks a column which the rows of a session share.
pub(super) fn is_session_key(call: &ScalarFunction) -> bool {
    call.func.name() == bounds::SESSION_KEY
}

/// The columns of a call that gives a bound of a session, which the rows of the session share; `None` of another function.
pub(super) fn of_session(call: &ScalarFunction) -> Option<&[Expr]> {
    let is_bound = matches!(call.func.name(), bounds::SESSION_START | bounds::SESSION_END);
    call.args.get(bounds::BEFORE_KEYS..).filter(|_| is_bound)
}

/// The columns of a call that gives a bound of a session, marked as what the rows of the session share.
pub(super) fn keys_of_session(call: &ScalarFunction) -> Option<Vec<Expr>> {
    let (columns, number) = (of_session(call)?, call.args.get(bounds::BEFORE_KEYS - 1)?);
    let key = function(bounds::SESSION_KEY)?;
    let marked = columns.iter().enumerate().map(|(place, column)| {
        let arguments = vec![column.clone(), lit(place as i64), number.clone()];
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(key), arguments))
            .alias(format!("session key {}", place + 1))
    });
    Some(marked.collect())
}

/// Whether it is a call of a function that puts rows into windows.
pub(super) fn are_made_by(name: &ObjectName) -> bool {
    Windows::named(name).is_some()
}

/// Whether the input of such a call is a query.
pub(super) fn are_over_query(args: &TableFunctionArgs) -> bool {
    matches!(args.args.first(), Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Subquery(_)))))
}

/// Whether such a call is anywhere in a query.
pub(super) fn are_in(query: &Query) -> bool {
    struct Find;
    impl Visitor for Find {
        type Break = ();

        fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
            match factor {
                TableFactor::Table { name, args: Some(_), .. } if are_made_by(name) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    query.visit(&mut Find).is_break()
}

/// For how many windows a plan makes a row of a row, at most.
pub(super) fn most_of_a_row(plan: &LogicalPlan) -> i64 {
    let mut most = 0;
    let _ = plan.apply(|node| {
        for expr in node.expressions() {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(call) = expr
                    && are_several(&call.func)
                    && let [_, slide, size, _] = call.args.as_slice()
                    && let (Some(slide), Some(size)) = (constant(slide), constant(size))
                {
                    most = most.max(of_a_row(slide, size));
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    most
}

fn constant(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::Int64(nanos), _) => *nanos,
        _ => None,
    }
}

/// How many windows a time can be in. The last of them began less than a slide before it.
fn of_a_row(slide: i64, size: i64) -> i64 {
    size.div_euclid(slide) + i64::from(size % slide > 0)
}

/// What came of the calls in a query.
pub(super) struct Replaced {
    /// What is wrong with them.
    pub(super) faults: Vec<Fault>,
    /// What is wrong with those that put a time into too many windows, if its row is kept for each of them.
    pub(super) wide: Vec<Fault>,
}

/// Puts in place of each call the query that it stands for.
pub(super) fn replace(query: &mut Query, sql: &str, catalog: &Catalog<'_>, inputs: &[(&str, SchemaRef)]) -> Replaced {
    // A named query hides the input of its name.
    let named =
        |name: &str| query.with.iter().flat_map(|with| &with.cte_tables).any(|it| parse::name(&it.alias.name) == name);
    let inputs: Vec<_> = inputs.iter().filter(|(name, _)| !named(name)).cloned().collect();
    let mut replace = Replace { sql, catalog, inputs: &inputs, faults: Vec::new(), wide: Vec::new(), sessions: 0 };
    let _ = VisitMut::visit(query, &mut replace);
    Replaced { faults: replace.faults, wide: replace.wide }
}

struct Replace<'a> {
    sql: &'a str,
    catalog: &'a Catalog<'a>,
    inputs: &'a [(&'a str, SchemaRef)],
    faults: Vec<Fault>,
    wide: Vec<Fault>,
    /// How many calls of `session` there were.
    sessions: u32,
}

impl VisitorMut for Replace<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(args), alias, .. } = factor
            && let Some(windows) = Windows::named(name)
        {
            match self.query(windows, name, args, alias.clone()) {
                Ok(query) => *factor = query,
                Err(fault) => self.faults.push(fault),
            }
        }
        ControlFlow::Continue(())
    }
}

impl Replace<'_> {
    fn query(
        &mut self,
        windows: Windows,
        name: &ObjectName,
        args: &TableFunctionArgs,
        alias: Option<TableAlias>,
    ) -> Result<TableFactor, Fault> {
        let wrong = || Fault {
            message: format!("these are not the arguments of {}", name.to_string().to_lowercase()),
            span: self.place(name.span()),
            help: Some(windows.usage().to_owned()),
        };
        let Call { input, time, slide, size, offset, keys } = windows.call(args).ok_or_else(wrong)?;
        self.check_time(&input, &time)?;
        let nanos = self.positive(&size)?;
        let offset = offset.map_or(Ok(0), |offset| self.nanos(&offset))?;
        let (slide, start) = match &slide {
            None if windows == Windows::Session => (nanos, format!("\"{}\"({TIME})", starts::MOMENT)),
            None => (nanos, format!("\"{}\"({TIME}, {nanos}, {offset})", starts::ONE)),
            Some(slide) => {
                let slide = self.slide(slide, nanos)?;
                (slide, format!("unnest(\"{}\"({TIME}, {slide}, {nanos}, {offset}))", starts::SEVERAL))
            }
        };
        let given_way = self.given_way(&input);
        let mut named = BTreeSet::new();
        let keys = keys.iter().map(|name| Ident::with_quote('"', parse::name(name)).to_string());
        let keys: Vec<String> = keys.filter(|name| named.insert(name.clone())).collect();
        let (columns, first, last) = match windows {
            Windows::Session => {
                let arguments: String = keys.iter().map(|key| format!(", {key}")).collect();
                self.sessions += 1;
                let call = self.sessions;
                let bound = |function| format!("\"{function}\"({START}, {nanos}, {call}{arguments})");
                let mark = |number, key| format!("\"{}\"({key}, {number}, {call}) AS {key}", bounds::SESSION_KEY);
                let marked: Vec<String> = keys.iter().enumerate().map(|(number, key)| mark(number, key)).collect();
                let marked = if keys.is_empty() { String::new() } else { format!(" REPLACE ({})", marked.join(", ")) };
                (marked, bound(bounds::SESSION_START), bound(bounds::SESSION_END))
            }
            Windows::Tumble | Windows::Hop => {
                let bound = |function| format!("\"{function}\"({START}, {slide}, {nanos}, {offset})");
                (String::new(), bound(bounds::START), bound(bounds::END))
            }
        };
        let text = format!(
            "SELECT * EXCLUDE ({START}){columns}, {first} AS window_start, {last} AS window_end \
             FROM (SELECT *{given_way}, {start} AS {START} FROM {INPUT})"
        );
        let parsed = Parser::new(&parse::DIALECT).try_with_sql(&text).and_then(|mut parser| parser.parse_query());
        let mut subquery = parsed.map_err(|error| parse::fault(&error, &text))?;
        let named = |name: Ident| TableAlias { explicit: true, name, columns: Vec::new(), at: None };
        let alias = alias.or_else(|| name_of(&input).map(named));
        let _ = VisitMut::visit(&mut subquery, &mut Fill { input, time });
        Ok(TableFactor::Derived { lateral: false, subquery, alias, sample: None })
    }

    /// Refuses another column than a timestamp, where the columns are known; else it is refused as an argument.
    fn check_time(&self, input: &TableFactor, time: &ast::Expr) -> Result<(), Fault> {
        let column = match time {
            ast::Expr::Identifier(column) => Some(column),
            ast::Expr::CompoundIdentifier(parts) => parts.last(),
            _ => None,
        };
        let field = self
            .schema(input)
            .zip(column)
            .and_then(|(schema, column)| schema.field_with_name(&parse::name(column)).ok());
        match field.map(|field| field.data_type()) {
            None | Some(DataType::Timestamp(..)) => Ok(()),
            Some(other) => Err(Fault {
                message: format!("windows are over a timestamp, and this is a {}", types::name(other)),
                span: self.place(time.span()),
                help: None,
            }),
        }
    }

    /// What leaves out the columns of the input that give way.
    fn given_way(&self, from: &TableFactor) -> String {
        let schema = self.schema(from);
        let has = |column: &&str| schema.is_some_and(|schema| schema.index_of(column).is_ok());
        let columns: Vec<&str> = COLUMNS.into_iter().filter(has).collect();
        if columns.is_empty() { String::new() } else { format!(" EXCLUDE ({})", columns.join(", ")) }
    }

    /// The columns of an input, where they are known before the query is planned.
    fn schema(&self, input: &TableFactor) -> Option<&SchemaRef> {
        let name = parse::name(&name_of(input)?);
        self.inputs.iter().find(|(input, _)| *input == name).map(|(_, schema)| schema)
    }

    fn slide(&mut self, slide: &ast::Expr, size: i64) -> Result<i64, Fault> {
        let nanos = self.positive(slide)?;
        let wrong = |message: String, help: &str| {
            Err(Fault { message, span: self.place(slide.span()), help: Some(help.to_owned()) })
        };
        if nanos > size {
            return wrong(
                "windows that slide by more than their size leave out what is between them".to_owned(),
                "the slide comes before the size",
            );
        }
        let most = of_a_row(nanos, size);
        if most > MOST {
            self.wide.push(Fault {
                message: format!("each row would be in {most} windows, and so as many rows; {MOST} are the most"),
                span: self.place(slide.span()),
                help: Some(
                    "let the windows slide further, or group by them right away: SELECT window_start, …, count(*) FROM hop(…) \
                     GROUP BY window_start, …"
                        .into(),
                ),
            });
        }
        Ok(nanos)
    }

    fn positive(&self, interval: &ast::Expr) -> Result<i64, Fault> {
        match self.nanos(interval)? {
            nanos if nanos > 0 => Ok(nanos),
            _ => Err(Fault {
                message: "a window is longer than nothing".into(),
                span: self.place(interval.span()),
                help: None,
            }),
        }
    }

    /// The length of a constant interval in nanoseconds.
    fn nanos(&self, interval: &ast::Expr) -> Result<i64, Fault> {
        let wrong = |message: &str, help: &str| Fault {
            message: message.to_owned(),
            span: self.place(interval.span()),
            help: Some(help.to_owned()),
        };
        let planner = SqlToRel::new_with_options(self.catalog, types::parser_options());
        let planned = planner.sql_to_expr(interval.clone(), &DFSchema::empty(), &mut PlannerContext::new());
        let Ok(Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _)) = planned else {
            return Err(wrong("this is no interval", "write it as INTERVAL '1 hour'"));
        };
        let IntervalMonthDayNano { months, days, nanoseconds } = interval;
        if months != 0 {
            return Err(wrong("months and years are not of one length", "say it in days, or hours"));
        }
        let nanos = i64::from(days).checked_mul(DAY).and_then(|days| days.checked_add(nanoseconds));
        nanos.ok_or_else(|| wrong("this is longer than 292 years", "write a shorter interval"))
    }

    fn place(&self, span: Span) -> Option<Range<usize>> {
        parse::bytes(self.sql, span)
    }
}

/// What stands in FROM for an input: a stage, a named query or a query.
fn table(input: ast::Expr) -> Option<TableFactor> {
    match input {
        ast::Expr::Identifier(name) => Some(TableFactor::Table {
            name: vec![name].into(),
            alias: None,
            args: None,
            with_hints: Vec::new(),
            version: None,
            with_ordinality: false,
            partitions: Vec::new(),
            json_path: None,
            sample: None,
            index_hints: Vec::new(),
        }),
        ast::Expr::Subquery(subquery) => {
            Some(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None })
        }
        _ => None,
    }
}

/// The name that an input can be called by.
fn name_of(input: &TableFactor) -> Option<Ident> {
    match input {
        TableFactor::Table { name, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

const TIME: &str = "$time";
const START: &str = "\"$start\"";
const INPUT: &str = "\"$input\"";

/// Puts what was written into the query around it; nothing else of that stands in the text.
struct Fill {
    input: TableFactor,
    time: ast::Expr,
}

impl VisitorMut for Fill {
    type Break = ();

    // What was written is not looked through.
    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if factor.to_string() == INPUT {
            *factor = self.input.clone();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
        match expr {
            ast::Expr::Identifier(name) => name.span = Span::empty(),
            ast::Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => *expr = self.time.clone(),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
