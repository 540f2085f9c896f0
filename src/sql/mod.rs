//! SQL to operators: what a query means over a stream, and what it cannot mean yet. How batches are processed lives in
//! `operator`.
//!
//! The dialect is DataFusion's, restricted to what can be answered row by row or window by window. A query is evaluated in the order in which it
//! is written: an inner query before the outer one, conditions before the select list, and `x <> 0 AND 10 / x > 1` divides
//! only where `x <> 0` holds. Integer arithmetic that overflows is an error of the row, at planning as in running.

mod arithmetic;
mod branches;
mod catalog;
mod changes;
mod clauses;
mod contract;
mod depth;
mod fault;
mod parse;
mod refusal;
mod spread;
mod types;
mod windowed;
mod windows;

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::sqlparser::ast::Statement;

use crate::bus::Micros;
use crate::operator::{Also, Branch, Changes, Flow, Operator, Plan, State, Transform, Windowed};
use catalog::Catalog;
pub use changes::Input;
pub(crate) use fault::{caught, clean};
pub use spread::Spread;
pub(crate) use types::name as type_name;

/// What is wrong with an SQL text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where in the text, in bytes; `None` if it is about the whole of it.
    pub span: Option<Range<usize>>,
    /// What to do about it, such as the nearest name that exists.
    pub help: Option<String>,
}

/// The SQL dialect with every function a pipeline can use.
pub struct Engine {
    state: SessionState,
}

/// A query over the inputs of a stage, checked and planned. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Query {
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// The column with the end of the window that a result is of; its start where no column has the end.
    window: Option<usize>,
    work: Work,
}

/// What evaluates a query.
#[derive(Debug, Clone)]
enum Work {
    /// Row by row.
    Rows(Arc<[Branch]>),
    /// Window by window; the plan as DataFusion has it says what is put together.
    Windows(Arc<Plan>, Arc<LogicalPlan>),
    /// With what changes.
    Changes(Arc<Flow>, Arc<LogicalPlan>),
}

/// How a stage keeps rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep {
    /// How long in event time it keeps what nothing else limits.
    pub ttl: Option<Micros>,
}

/// The text of a query, and how its stage keeps rows.
#[derive(Clone, Copy)]
struct Asked<'a> {
    sql: &'a str,
    keep: &'a Keep,
}

/// What answers a query.
pub(crate) enum Answer {
    /// Row by row, with each batch.
    Rows(Box<dyn Operator>),
    /// Window by window, as each closes.
    Windows(Box<Windowed>),
    /// As what changes.
    Changes(Box<Changes>),
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// The functions of DataFusion and for JSON in text.
    pub fn new() -> Self {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        config.options_mut().sql_parser.collect_spans = true;
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_analyzer_rule(Arc::new(arithmetic::CheckedArithmetic))
            .with_analyzer_rule(Arc::new(windows::ForgetMarks))
            .with_optimizer_rules(branches::optimizer_rules())
            .with_physical_optimizer_rules(windowed::optimizer_rules())
            .build();
        if let Err(error) = datafusion_functions_json::register_all(&mut state) {
            tracing::error!(%error, "the functions for JSON in text are missing");
        }
        Self { state }
    }

    /// Adds a function to those that queries can use.
    pub fn register(&mut self, function: datafusion::logical_expr::ScalarUDF) {
        if let Err(error) = self.state.register_udf(Arc::new(function)) {
            tracing::error!(%error, "a function could not be registered");
        }
    }

    /// The Arrow type of an SQL type such as `text not null`, and whether it can be null.
    ///
    /// Text is `Utf8`: as `Utf8View`, messages of short text are 40 % larger and no step is faster. A `timestamp`, with or without time zone, is an instant, kept in UTC to the nanosecond
    /// (years 1677 to 2262); `timestamp(0)`, `(3)` and `(6)` keep less and reach further.
    pub fn data_type(&self, sql_type: &str) -> Result<(DataType, bool), Fault> {
        types::parse(&self.state, sql_type)
    }

    /// Plans a query over inputs, each a table of that name, whose rows stay as they are.
    pub fn plan(&self, sql: &str, inputs: &[(&str, SchemaRef)]) -> Result<Query, Vec<Fault>> {
        let input = |(name, schema): &(&str, SchemaRef)| Input {
            name: inputs.iter().map(|(name, _)| *name).find(|it| it == name).unwrap_or_default(),
            schema: Arc::clone(schema),
            identity: None,
            time: None,
        };
        self.plan_over(sql, &inputs.iter().map(input).collect::<Vec<_>>(), &Keep::default())
    }

    /// Plans a query of a stage over inputs.
    pub fn plan_over(&self, sql: &str, inputs: &[Input<'_>], keep: &Keep) -> Result<Query, Vec<Fault>> {
        let of = Asked { sql, keep };
        depth::on_deep_stack(|| self.plan_here(of, inputs)).unwrap_or_else(|fault| Err(vec![fault]))
    }

    fn plan_here(&self, of: Asked<'_>, of_inputs: &[Input<'_>]) -> Result<Query, Vec<Fault>> {
        let sql = of.sql;
        let inputs: Vec<(&str, SchemaRef)> =
            of_inputs.iter().map(|input| (input.name, Arc::clone(&input.schema))).collect();
        let inputs = inputs.as_slice();
        let mut query = parse::query(sql, inputs).map_err(|fault| vec![fault])?;
        let catalog = Catalog::new(&self.state, inputs);
        let in_windows = windows::are_in(&query);
        let mut faults = refusal::of_syntax(&query, sql, &self.state, in_windows);
        let windows::Replaced { faults: more, wide } = windows::replace(&mut query, sql, &catalog, inputs);
        faults.extend(more);
        let planner = SqlToRel::new_with_options(&catalog, types::parser_options());
        let planned = planner.sql_statement_to_plan(Statement::Query(query));
        match &planned {
            Ok(plan) if faults.is_empty() => faults.extend(refusal::of_plan(plan, in_windows)),
            Ok(_) => {}
            // What follows from a refused clause, such as a column missing in GROUP BY, would only distract.
            Err(error) => faults.extend(fault::of_error(error, sql, &catalog, !faults.is_empty())),
        }
        match planned {
            Ok(plan) if faults.is_empty() => {
                // Constants are evaluated here. The plan is not touched, so a function that panics leaves nothing behind.
                if let Some(replaced) = of_inputs.iter().find(|input| input.identity.is_some()).filter(|_| in_windows) {
                    return Err(vec![Fault {
                        message: format!(
                            "the results of `{}` replace one another, and windows take each row once",
                            replaced.name
                        ),
                        span: None,
                        help: Some("put what they are made of into windows".into()),
                    }]);
                }
                let finished = caught(|| match in_windows {
                    true => self.finish(&plan, sql, inputs, wide),
                    false => self.finish_without_windows(&plan, of, of_inputs),
                });
                let panicked = |message| Err(vec![Fault { message, span: None, help: None }]);
                finished.unwrap_or_else(panicked)
            }
            _ => Err(fault::in_order(faults)),
        }
    }

    /// What is wrong with a query whatever its inputs are: its syntax, what needs state, what is not deterministic.
    pub fn syntax(&self, sql: &str) -> Vec<Fault> {
        let faults = depth::on_deep_stack(|| match parse::query(sql, &[]) {
            Ok(query) => fault::in_order(refusal::of_syntax(&query, sql, &self.state, windows::are_in(&query))),
            Err(fault) => vec![fault],
        });
        faults.unwrap_or_else(|fault| vec![fault])
    }

    /// Makes a query of a plan without windows.
    fn finish_without_windows(
        &self,
        plan: &LogicalPlan,
        of: Asked<'_>,
        inputs: &[Input<'_>],
    ) -> Result<Query, Vec<Fault>> {
        let one = |fault| vec![fault];
        let schema = output_schema(plan).map_err(one)?;
        let optimized = self.state.optimize(plan).map_err(|error| vec![fault::of_whole(&error)])?;
        if windowed::is_by_row(&optimized) && inputs.iter().all(|input| input.identity.is_none()) {
            let pairs: Vec<(&str, SchemaRef)> =
                inputs.iter().map(|input| (input.name, Arc::clone(&input.schema))).collect();
            let branches = branches::of_plan(&optimized, &schema, &self.state, &pairs).map_err(one)?;
            return Ok(Query { window: None, schema, work: Work::Rows(branches.into()) });
        }
        let flow = changes::of_plan(&optimized, &schema, &self.state, inputs, of)?;
        let schema = flow.results();
        Ok(Query { window: None, schema, work: Work::Changes(Arc::new(flow), Arc::new(optimized)) })
    }

    /// Makes a query of a plan. `wide` is what is wrong where a row is kept for each of its windows, of which it has too many.
    fn finish(
        &self,
        plan: &LogicalPlan,
        sql: &str,
        inputs: &[(&str, SchemaRef)],
        wide: Vec<Fault>,
    ) -> Result<Query, Vec<Fault>> {
        let one = |fault| vec![fault];
        let schema = output_schema(plan).map_err(one)?;
        let optimized = self.state.optimize(plan).map_err(|error| vec![fault::of_whole(&error)])?;
        let (work, most) = if windowed::is_by_row(&optimized) && !windowed::has_sessions(&optimized) {
            let branches = branches::of_plan(&optimized, &schema, &self.state, inputs).map_err(one)?;
            (Work::Rows(branches.into()), windows::most_of_a_row(&optimized))
        } else {
            let faults = windowed::faults(&optimized, sql);
            if !faults.is_empty() {
                return Err(fault::in_order(faults));
            }
            let (plan, most) = windowed::of_plan(&optimized, &schema, &self.state, inputs).map_err(one)?;
            (Work::Windows(Arc::new(plan), Arc::new(optimized)), most)
        };
        if most > windows::MOST {
            return Err(wide);
        }
        Ok(Query { window: windows::bound(plan.schema().fields()), schema, work })
    }
}

impl Query {
    /// The same query, its results brought to a contract: columns by name, cast to the contract's types; a row that
    /// cannot be cast or is null where it must not be is a reject.
    ///
    /// A column that the contract does not have, or that the query does not, is a fault; so is a cast that no type or only
    /// one that would drop a part of the value unseen could make, such as that of a double to an integer.
    pub fn under_contract(self, contract: &SchemaRef) -> Result<Query, Vec<Fault>> {
        let columns = match &self.work {
            Work::Changes(flow, _) => &flow.schema,
            _ => &self.schema,
        };
        let step = contract::step(columns, contract)?;
        let named = |column: usize| contract.index_of(columns.fields().get(column)?.name()).ok();
        let work = match &self.work {
            Work::Rows(branches) => {
                Work::Rows(branches.iter().map(|branch| branch.followed_by(step.clone())).collect())
            }
            Work::Windows(plan, says) => Work::Windows(Arc::new(plan.followed_by(step, contract)), Arc::clone(says)),
            Work::Changes(flow, says) => {
                let flow = flow.followed_by(step, contract, named);
                let schema = flow.results();
                return Ok(Query { schema, window: None, work: Work::Changes(Arc::new(flow), Arc::clone(says)) });
            }
        };
        Ok(Query { schema: Arc::clone(contract), window: self.window.and_then(named), work })
    }

    /// The same query, whose windows yield more than their results when they close. For each kind of it, results have a column
    /// more, which says whether they are of it.
    pub fn with(self, also: Also) -> Result<Query, Fault> {
        let wrong =
            |message: &str, help: &str| Fault { message: message.to_owned(), span: None, help: Some(help.to_owned()) };
        let Work::Windows(plan, says) = &self.work else {
            return Err(wrong(
                "the stage has no windows, which could yield anything early or once more",
                "leave it out",
            ));
        };
        if let Some(taken) = also.columns().find(|name| self.schema.column_with_name(name).is_some()) {
            let message = format!("results have a column `{taken}` already, which is to say what they are");
            return Err(wrong(&message, "give that column another name"));
        }
        let plan = Plan { also, ..plan.as_ref().clone() };
        let (schema, work) = (also.schema(&self.schema), Work::Windows(Arc::new(plan), Arc::clone(says)));
        Ok(Query { schema, work, ..self })
    }

    /// The column of the results that has, in each, the value which that column of that input has in the row that it is made of.
    /// `None` where there is no such column.
    pub fn carries(&self, input: usize, column: usize) -> Option<usize> {
        let Work::Rows(branches) = &self.work else { return None };
        let is_from = |result: usize| {
            let mut branches = branches.iter().filter(|branch| branch.input == input).peekable();
            branches.peek().is_some() && branches.all(|branch| branch.source(result) == Some(column))
        };
        (0..self.schema.fields().len()).find(|result| is_from(*result))
    }

    /// The column of the results with the end of the window that a result is of, or else with its start.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// Whether its rows are those of windows that have closed, and not each of a row that came in.
    pub fn is_windowed(&self) -> bool {
        matches!(self.work, Work::Windows(..))
    }

    /// Whether rows are kept from batch to batch.
    pub fn has_state(&self) -> bool {
        !matches!(self.work, Work::Rows(_))
    }

    /// The column with the event time of results that come as rows do, and not when windows close.
    pub fn time(&self) -> Option<usize> {
        match &self.work {
            Work::Changes(flow, _) => flow.time,
            _ => None,
        }
    }

    /// The columns that tell results apart that replace one another; `None` where none is ever replaced.
    pub fn identity(&self) -> Option<&[usize]> {
        match &self.work {
            Work::Changes(flow, _) => flow.identity.as_deref(),
            _ => None,
        }
    }

    /// What is wrong with the query where its inputs are spread over partitions like this: it cannot put rows together that are
    /// in different ones.
    pub fn spread_faults(&self, inputs: &[Spread<'_>]) -> Vec<Fault> {
        match &self.work {
            Work::Rows(_) => Vec::new(),
            Work::Windows(_, plan) | Work::Changes(_, plan) => fault::in_order(spread::faults(plan, inputs)),
        }
    }

    /// What answers the query batch by batch; `None` where rows are kept from one to the next.
    pub fn operator(&self) -> Option<Box<dyn Operator>> {
        match self.answer() {
            Answer::Rows(operator) => Some(operator),
            Answer::Windows(_) | Answer::Changes(_) => None,
        }
    }

    /// What keeps its rows from batch to batch; `None` where none are kept.
    pub(crate) fn state(&self) -> Option<Box<dyn State>> {
        match self.answer() {
            Answer::Rows(_) => None,
            Answer::Windows(windows) => Some(windows),
            Answer::Changes(changes) => Some(changes),
        }
    }

    /// What answers the query.
    pub(crate) fn answer(&self) -> Answer {
        match &self.work {
            Work::Rows(branches) => {
                Answer::Rows(Box::new(Transform::new(Arc::clone(branches), Arc::clone(&self.schema))))
            }
            Work::Windows(plan, _) => Answer::Windows(Box::new(Windowed::new(Arc::clone(plan)))),
            Work::Changes(flow, _) => Answer::Changes(Box::new(Changes::new(Arc::clone(flow)))),
        }
    }
}

/// The columns of the query's rows, under the names the query gives them.
fn output_schema(plan: &LogicalPlan) -> Result<SchemaRef, Fault> {
    let schema = Schema::new(plan.schema().fields().iter().map(windows::forgotten).collect::<Vec<_>>());
    for (index, field) in schema.fields().iter().enumerate() {
        if schema.fields().iter().take(index).any(|earlier| earlier.name() == field.name()) {
            let message = format!("two result columns are named `{}`", field.name());
            return Err(Fault { message, span: None, help: Some("give one of them another name with AS".into()) });
        }
        if contains_union(field.data_type()) {
            let message = format!("the type of result column `{}` differs from row to row", field.name());
            let help = "choose a type, for example with json_get_str, json_get_int or json_as_text".to_owned();
            return Err(Fault { message, span: None, help: Some(help) });
        }
    }
    Ok(Arc::new(schema))
}

fn contains_union(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(..) => true,
        DataType::Struct(fields) => fields.iter().any(|field| contains_union(field.data_type())),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => contains_union(item.data_type()),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
