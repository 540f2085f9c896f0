//! What a query cannot ask for: whatever would be known only at the end of rows that have none, and whatever could answer
//! differently the next time. Looked for in the syntax, where every clause has a place, and once more in the plan, where nothing hides.

use std::ops::{ControlFlow, Range};

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::sql::sqlparser::ast::{
    self, Distinct, Function, Query, Select, SelectItem, SetExpr, Spanned, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use super::clauses::{self, Clause};
use super::{Fault, parse, types, windows};

/// Refused clauses and functions, each at its place.
/// What needs an end is refused where rows are in no windows.
pub(super) fn of_syntax(query: &Query, sql: &str, state: &SessionState, in_windows: bool) -> Vec<Fault> {
    let mut search = Search { sql, tokens: parse::tokens(sql), state, in_windows, is_input: false, faults: Vec::new() };
    let _ = query.visit(&mut search);
    search.faults
}

/// What is refused in the plan, whatever syntax it was written in.
pub(super) fn of_plan(plan: &LogicalPlan, in_windows: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let visited = plan.apply_with_subqueries(|node| {
        faults.extend(refused_node(node, in_windows));
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                faults.extend(refused_expression(expr));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    if let Err(error) = visited {
        faults.push(super::fault::of_whole(&error));
    }
    faults
}

/// Whether it takes rows one by one.
pub(super) fn is_of_rows(node: &LogicalPlan) -> bool {
    matches!(
        node,
        LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::TableScan(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Unnest(_)
            // Whether it reads an input is seen when branches are made of the plan.
            | LogicalPlan::EmptyRelation(_)
            | LogicalPlan::Values(_)
    )
}

/// Whether it is a query within an expression.
pub(super) fn is_query(expr: &Expr) -> bool {
    matches!(expr, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_))
}

fn refused_node(node: &LogicalPlan, in_windows: bool) -> Option<Fault> {
    match node {
        LogicalPlan::Sort(_) if !in_windows => Some(needs_end("ORDER BY", None)),
        LogicalPlan::Limit(_) if !in_windows => Some(needs_end("LIMIT", None)),
        LogicalPlan::Aggregate(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Join(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Subquery(_) => None,
        node if is_of_rows(node) => None,
        LogicalPlan::RecursiveQuery(_) => Some(unknown("a recursive query", None)),
        _ => Some(unknown("a statement that is not a query", None)),
    }
}

fn refused_expression(expr: &Expr) -> Option<Fault> {
    let volatile =
        |name: &str, volatility| (volatility != Volatility::Immutable).then(|| not_deterministic(name, None));
    match expr {
        Expr::ScalarFunction(call) => volatile(call.func.name(), call.func.signature().volatility),
        Expr::HigherOrderFunction(call) => volatile(call.func.name(), call.func.signature().volatility),
        Expr::Placeholder(placeholder) => Some(Fault {
            message: format!("`{}` stands for a value that nobody gives", placeholder.id),
            span: None,
            help: Some("write the value itself".into()),
        }),
        Expr::ScalarVariable(_, name) => {
            Some(Fault { message: format!("there is no variable `{}`", name.join(".")), span: None, help: None })
        }
        _ => None,
    }
}

struct Search<'a> {
    sql: &'a str,
    tokens: Vec<(Token, Range<usize>)>,
    state: &'a SessionState,
    /// Whether rows are in windows, which have an end.
    in_windows: bool,
    /// Whether the next query in an expression is what windows are over.
    is_input: bool,
    faults: Vec<Fault>,
}

impl Search<'_> {
    /// Refuses what needs an end.
    fn refuse(&mut self, what: &str, span: Option<Range<usize>>) {
        if !self.in_windows {
            self.faults.push(needs_end(what, span));
        }
    }

    fn place(&self, span: Span) -> Option<Range<usize>> {
        parse::bytes(self.sql, span)
    }

    /// From the last of the keywords before the span to the span's end.
    fn clause(&self, keyword: &str, span: Span) -> Option<Range<usize>> {
        let inner = self.place(span)?;
        let before = self.tokens.iter().rev().filter(|(_, place)| place.start <= inner.start);
        let start = before.filter(|(token, _)| is_word(token, keyword)).map(|(_, place)| place.start).next();
        Some(start.unwrap_or(inner.start)..inner.end)
    }

    /// The first of the keywords that does not stand before the given byte.
    fn keyword(&self, keyword: &str, from: usize) -> Option<Range<usize>> {
        let mut after = self.tokens.iter().filter(|(_, place)| place.start >= from);
        after.find(|(token, _)| is_word(token, keyword)).map(|(_, place)| place.clone())
    }

    fn duplicates(&mut self, select: &Select) {
        let mut names: Vec<String> = Vec::new();
        for item in &select.projection {
            let name = match item {
                SelectItem::ExprWithAlias { alias, .. } => alias,
                SelectItem::UnnamedExpr(ast::Expr::Identifier(column)) => column,
                _ => continue,
            };
            let name = parse::name(name);
            if names.contains(&name) {
                self.faults.push(Fault {
                    message: format!("two result columns are named `{name}`"),
                    span: self.place(item.span()),
                    help: Some("give one of them another name with AS".into()),
                });
            }
            names.push(name);
        }
    }

    fn function(&mut self, function: &Function) {
        let name = function.name.to_string().to_lowercase();
        let place = self.place(function.name.span());
        let scalar = self.state.scalar_functions().get(&name);
        let is_aggregate = self.state.aggregate_functions().contains_key(&name);
        let over_rows = function.over.is_some() || self.state.window_functions().contains_key(&name);
        if is_aggregate || over_rows {
            self.unsupported(clauses::of_aggregate(function), place.map_or(0, |place| place.start));
            return;
        }
        if scalar.is_some_and(|scalar| scalar.signature().volatility != Volatility::Immutable) {
            self.faults.push(not_deterministic(&name, place.clone()));
        }
        self.unsupported(clauses::of_function(function), place.map_or(0, |place| place.start));
    }

    /// Clauses that are found by their word, from the given byte on.
    fn unsupported(&mut self, clauses: Vec<Clause>, from: usize) {
        for Clause { what, keyword, help } in clauses {
            let message = format!("{what} is not supported");
            self.faults.push(Fault { message, span: self.keyword(keyword, from), help: Some(help.into()) });
        }
    }

    fn sql_type(&mut self, sql_type: &ast::DataType, span: Span) {
        let place = self.place(span);
        self.faults.extend(types::length(sql_type).map(|fault| Fault { span: place, ..fault }));
    }
}

impl Visitor for Search<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = query.with.as_ref().filter(|with| with.recursive) {
            let place = self.place(with.with_token.0.span).and_then(|with| self.keyword("RECURSIVE", with.start));
            self.faults.push(unknown("a recursive query", place));
        }
        // Which row of those that have the same values DISTINCT ON takes is a question with an answer.
        let chooses =
            matches!(query.body.as_ref(), SetExpr::Select(select) if matches!(select.distinct, Some(Distinct::On(_))));
        if let Some(order) = query.order_by.as_ref().filter(|_| !chooses) {
            self.refuse("ORDER BY", self.clause("ORDER", order.span()));
        }
        if let Some(limit) = &query.limit_clause {
            let span = limit.span();
            let place = self.clause("LIMIT", span).or_else(|| self.clause("OFFSET", span));
            self.refuse("LIMIT", place);
        }
        if let Some(fetch) = &query.fetch {
            self.refuse("FETCH", self.clause("FETCH", fetch.span()));
        }
        let start = self.place(query.span()).map_or(0, |place| place.start);
        self.unsupported(clauses::of_query(query), start);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let start = self.place(select.select_token.0.span).map_or(0, |place| place.start);
        self.unsupported(clauses::of_select(select), start);
        self.duplicates(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let place = self.place(factor.span());
        self.unsupported(clauses::of_table(factor), place.as_ref().map_or(0, |place| place.start));
        match factor {
            TableFactor::Table { args: None, .. } | TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => {}
            TableFactor::Table { name, args: Some(args), .. } if windows::are_made_by(name) => {
                self.is_input = windows::are_over_query(args);
            }
            TableFactor::UNNEST { .. } => self.faults.push(Fault {
                message: "UNNEST in FROM joins every row with its elements, and joins are not supported".into(),
                span: place,
                help: Some("write it in the select list: SELECT id, unnest(tags) AS tag FROM …".into()),
            }),
            TableFactor::Table { name, .. } => {
                self.faults.push(unknown(&format!("the table function {name}"), place));
            }
            _ => self.faults.push(Fault {
                message: "only the stages that feed this one, and queries over them, can stand here".into(),
                span: place,
                help: None,
            }),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        match expr {
            ast::Expr::Function(function) => self.function(function),
            ast::Expr::Cast { data_type, .. } => self.sql_type(data_type, expr.span()),
            ast::Expr::TypedString(text) => self.sql_type(&text.data_type, expr.span()),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// What is wrong, at the only one of these words that is in the text.
pub(super) fn at_only(tokens: &[(Token, Range<usize>)], keywords: &[&str], message: &str, help: &str) -> Fault {
    let is_keyword = |token: &Token| keywords.iter().any(|keyword| is_word(token, keyword));
    let mut places = tokens.iter().filter(|(token, _)| is_keyword(token)).map(|(_, place)| place);
    let span = places.next().filter(|_| places.next().is_none()).cloned();
    Fault { message: message.to_owned(), span, help: (!help.is_empty()).then(|| help.to_owned()) }
}

/// Whether it is that keyword.
fn is_word(token: &Token, keyword: &str) -> bool {
    match token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword),
        Token::VerticalBarRightAngleBracket => keyword == "|>",
        _ => false,
    }
}

fn needs_end(what: &str, span: Option<Range<usize>>) -> Fault {
    Fault {
        message: format!("{what} needs an end, and rows have none"),
        span,
        help: Some(
            "put the rows into windows, as in FROM tumble(input, time, INTERVAL '1 hour'); or keep the first of each with \
             row_number() OVER (PARTITION BY … ORDER BY …) in a query around it: WHERE n <= 10"
                .into(),
        ),
    }
}

fn unknown(what: &str, span: Option<Range<usize>>) -> Fault {
    Fault {
        message: format!("{what} is not supported"),
        span,
        help: Some("a query reads the stages that feed its own, by their names".into()),
    }
}

fn not_deterministic(name: &str, span: Option<Range<usize>>) -> Fault {
    Fault {
        message: format!("{name}() is not deterministic: the same row could give another result the next time"),
        span,
        help: Some("take what it would yield from a column of the rows".into()),
    }
}
