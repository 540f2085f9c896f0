//! Optimised plans of queries that put rows together which are in no windows, to what `operator::changes` evaluates: where rows
//! come in, and the nodes that what changes flows through.

mod bounds;
mod firsts;
mod joins;
mod weighed;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, Filter, LogicalPlan, Window};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::branches::{Planner, arrow_schema};
use super::refusal::{at_only, is_query};
use super::windowed::{is_by_row, physical, placeholder};
use super::{Asked, Fault, Keep, fault, parse};
use crate::failure::Class;
use crate::operator::{AggregatePlan, Branch, Conform, Flow, GroupsPlan, LatestPlan, Node, Source, Step, To, Work};

/// What is known of an input.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The name under which queries read it.
    pub name: &'a str,
    /// Its columns.
    pub schema: SchemaRef,
    /// The columns that tell which rows replace one another; `None` where none does. After its columns comes one more then, which
    /// says which rows are deleted.
    pub identity: Option<Vec<usize>>,
    /// The column with the event time.
    pub time: Option<usize>,
}

/// What evaluates a plan that yields rows of the schema.
pub(super) fn of_plan(
    plan: &LogicalPlan,
    schema: &SchemaRef,
    state: &SessionState,
    inputs: &[Input<'_>],
    of: Asked<'_>,
) -> Result<Flow, Vec<Fault>> {
    let pairs: Vec<(&str, SchemaRef)> = inputs.iter().map(|input| (input.name, Arc::clone(&input.schema))).collect();
    let mut builder = Builder {
        planner: Planner { state, inputs: &pairs },
        inputs,
        keep: of.keep,
        tokens: parse::tokens(of.sql),
        sources: Vec::new(),
        nodes: Vec::new(),
        faults: Vec::new(),
    };
    let built = builder.build(plan);
    let Builder { sources, nodes, mut faults, .. } = builder;
    let built = match built {
        Ok(built) if faults.is_empty() => built,
        Ok(_) => return Err(fault::in_order(faults)),
        Err(fault) => {
            faults.push(fault);
            return Err(fault::in_order(faults));
        }
    };
    let identity = match built.identities.first() {
        _ if !built.changes => None,
        Some(parts) => {
            let columns: BTreeSet<usize> = parts.iter().filter_map(|part| part.first().copied()).collect();
            Some(columns.into_iter().collect())
        }
        None => {
            return Err(vec![Fault {
                message: "results replace one another, and nothing in them tells which".into(),
                span: None,
                help: Some(
                    "select what tells them apart, such as all columns of GROUP BY; rows of a stage whose rows stay as they are \
                     are told apart by SELECT DISTINCT ON (id) …, which keeps the first of each"
                        .into(),
                ),
            }]);
        }
    };
    let columns = (0..schema.fields().len()).collect();
    let latest = inputs.iter().enumerate().filter_map(|(input, it)| {
        let reads = sources.iter().any(|source: &Source| source.branches.iter().any(|branch| branch.input == input));
        let identity = it.identity.clone().filter(|_| reads)?;
        Some(LatestPlan { input, schema: Arc::clone(&it.schema), identity })
    });
    Ok(Flow {
        latest: latest.collect(),
        sources,
        nodes,
        above: vec![Step::Conform(Conform::new(columns, schema, Class::Expression))],
        schema: Arc::clone(schema),
        identity,
        time: built.times.first().copied(),
        ttl: of.keep.ttl,
    })
}

/// What tells rows apart: parts, of each of which any of several columns has the value.
type Parts = Vec<BTreeSet<usize>>;

/// Each column a part of what tells rows apart.
fn parts(columns: impl IntoIterator<Item = usize>) -> Parts {
    columns.into_iter().map(|column| BTreeSet::from([column])).collect()
}

/// A part of the plan that was built.
struct Built {
    from: Feed,
    /// Whether rows are ever taken away.
    changes: bool,
    /// Each of these tells rows apart.
    identities: Vec<Parts>,
    /// The columns with event times that the watermark tells of.
    times: BTreeSet<usize>,
}

/// Where rows come from.
#[derive(Clone, Copy)]
enum Feed {
    Source(usize),
    Node(usize),
}

struct Builder<'a> {
    planner: Planner<'a>,
    inputs: &'a [Input<'a>],
    keep: &'a Keep,
    tokens: Vec<(Token, Range<usize>)>,
    sources: Vec<Source>,
    nodes: Vec<Node>,
    faults: Vec<Fault>,
}

type Result<T, E = Fault> = std::result::Result<T, E>;

fn whole(error: datafusion::common::DataFusionError) -> Fault {
    fault::of_whole(&error)
}

impl Builder<'_> {
    fn build(&mut self, plan: &LogicalPlan) -> Result<Built> {
        if is_by_row(plan) {
            return self.source(plan);
        }
        if let Some(query) =
            plan.expressions().iter().find(|expr| expr.exists(|expr| Ok(is_query(expr))).unwrap_or(true))
        {
            return Err(self.wrong(
                &[],
                &format!("this subquery cannot be kept up to date: {query}"),
                "write it as a join, or give it a stage of its own",
            ));
        }
        match plan {
            LogicalPlan::SubqueryAlias(alias) => self.build(&alias.input),
            LogicalPlan::Projection(projection) => {
                let built = self.build(&projection.input)?;
                let step = self.planner.project(projection)?;
                Ok(self.then(built, vec![step], arrow_schema(&projection.schema)))
            }
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Unnest(unnest) => {
                let built = self.build(&unnest.input)?;
                let step = super::branches::unnest(unnest);
                let built = self.then(built, vec![step], arrow_schema(&unnest.schema));
                Ok(Built { identities: Vec::new(), ..built })
            }
            LogicalPlan::Union(union) => {
                let schema = arrow_schema(&union.schema);
                let mut changes = false;
                let mut times: Option<BTreeSet<usize>> = None;
                let mut parts = Vec::new();
                for input in &union.inputs {
                    let built = self.build(input)?;
                    changes |= built.changes;
                    times = Some(match times {
                        Some(times) => &times & &built.times,
                        None => built.times,
                    });
                    parts.push(built.from);
                }
                let number = self.node(Work::Union, schema, Vec::new());
                parts.into_iter().for_each(|from| self.link(from, To::Node(number, 0)));
                Ok(Built { from: Feed::Node(number), changes, identities: Vec::new(), times: times.unwrap_or_default() })
            }
            LogicalPlan::Join(join) => self.join(join, Vec::new()),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window, None),
            LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => Err(self.wrong(
                &["LIMIT", "ORDER"],
                "ORDER BY and LIMIT would be over rows that never end",
                "keep the first of each with row_number() OVER (PARTITION BY … ORDER BY …) in a query around it: WHERE n <= 10",
            )),
            other => Err(self.wrong(&[], &format!("this cannot be kept up to date: {}", other.display()), "")),
        }
    }

    /// Rows as they are before anything is done with several of them.
    fn source(&mut self, plan: &LogicalPlan) -> Result<Built> {
        let rows = arrow_schema(plan.schema());
        let branches = self.planner.branches(plan)?;
        let all = |of: &dyn Fn(&Input<'_>, &Branch) -> Option<usize>| {
            let mut columns = branches.iter().map(|branch| of(self.inputs.get(branch.input)?, branch));
            let first = columns.next().flatten()?;
            columns.all(|column| column == Some(first)).then_some(first)
        };
        let passes = |branch: &Branch, column: usize| {
            (0..rows.fields().len()).find(|result| branch.source(*result) == Some(column))
        };
        let changes =
            branches.iter().any(|branch| self.inputs.get(branch.input).is_some_and(|it| it.identity.is_some()));
        // A row that replaces another one can be as old as that.
        let time = all(&|input, branch| passes(branch, input.time?)).filter(|_| !changes);
        let identity = match branches.as_slice() {
            [branch] if !branch.multiplies() => {
                let columns = self.inputs.get(branch.input).and_then(|input| input.identity.as_ref());
                columns.and_then(|columns| columns.iter().map(|column| passes(branch, *column)).collect())
            }
            _ => None,
        };
        let identities = identity.into_iter().map(|columns: Vec<usize>| parts(columns)).collect();
        self.sources.push(Source { branches, rows, time, can_be_late: false, to: To::Results });
        Ok(Built { from: Feed::Source(self.sources.len() - 1), changes, identities, times: time.into_iter().collect() })
    }

    fn node(&mut self, work: Work, schema: SchemaRef, keeps: Vec<String>) -> usize {
        self.nodes.push(Node { work, schema, to: To::Results, keeps });
        self.nodes.len() - 1
    }

    /// Lets rows go there.
    fn link(&mut self, from: Feed, to: To) {
        let slot = match from {
            Feed::Source(number) => self.sources.get_mut(number).map(|source| &mut source.to),
            Feed::Node(number) => self.nodes.get_mut(number).map(|node| &mut node.to),
        };
        if let Some(slot) = slot {
            *slot = to;
        }
    }

    fn schema(&self, from: Feed) -> SchemaRef {
        let schema = match from {
            Feed::Source(number) => self.sources.get(number).map(|source| &source.rows),
            Feed::Node(number) => self.nodes.get(number).map(|node| &node.schema),
        };
        schema.cloned().unwrap_or_else(|| Arc::new(Schema::empty()))
    }

    /// Something done to each row.
    fn then(&mut self, built: Built, steps: Vec<Step>, schema: SchemaRef) -> Built {
        let through = |column: usize| {
            let source = |result: &usize| steps.iter().rev().try_fold(*result, |column, step| step.source(column));
            (0..schema.fields().len()).find(|result| source(result) == Some(column))
        };
        let part = |part: BTreeSet<usize>| {
            let part: BTreeSet<usize> = part.into_iter().filter_map(through).collect();
            (!part.is_empty()).then_some(part)
        };
        let identities =
            built.identities.into_iter().filter_map(|parts| parts.into_iter().map(part).collect()).collect();
        let times = built.times.into_iter().filter_map(through).collect();
        let number = self.node(Work::Steps(steps), schema, Vec::new());
        self.link(built.from, To::Node(number, 0));
        Built { from: Feed::Node(number), changes: built.changes, identities, times }
    }

    fn filter(&mut self, filter: &Filter) -> Result<Built> {
        let conditions = split_conjunction(&filter.predicate).into_iter().cloned();
        match filter.input.as_ref() {
            LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
                return self.join(join, conditions.collect());
            }
            // Columns that are only chosen are the same above and below.
            LogicalPlan::Projection(projection)
                if projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_))) =>
            {
                if let LogicalPlan::Join(join) = projection.input.as_ref()
                    && join.join_type == JoinType::Inner
                {
                    let built = self.join(join, conditions.collect())?;
                    let step = self.planner.project(projection)?;
                    return Ok(self.then(built, vec![step], arrow_schema(&projection.schema)));
                }
            }
            _ => {}
        }
        let limited = match firsts::firsts(filter) {
            Some(limited) => limited.map_err(whole)?,
            None => LogicalPlan::clone(&filter.input),
        };
        let built = match &limited {
            LogicalPlan::Filter(Filter { input, predicate, .. }) => match input.as_ref() {
                LogicalPlan::Window(window) => self.window(window, Some(predicate))?,
                _ => self.build(&limited)?,
            },
            LogicalPlan::Window(window) if firsts::counts(window, &filter.predicate) => {
                self.window(window, Some(&filter.predicate))?
            }
            _ => self.build(&limited)?,
        };
        let steps = self.planner.filter(filter)?;
        let schema = arrow_schema(filter.input.schema());
        Ok(self.then(built, steps, schema))
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Built> {
        if matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]) {
            return Err(self.wrong(
                &["ROLLUP", "CUBE", "SETS"],
                "grouping sets are not supported",
                "write a query for each of the sets, with UNION ALL between them",
            ));
        }
        let built = self.build(&aggregate.input)?;
        let groups = aggregate.group_expr.len();
        let changes = built.changes || !only_says_that_there_are_some(aggregate);
        // What the rows of a group have in common is also the first value of it, as DISTINCT ON selects it.
        let firsts = |group: usize| {
            let of_group = aggregate.group_expr.get(group);
            let exprs = aggregate.aggr_expr.iter().enumerate();
            let same = exprs.filter(move |(_, expr)| first_of(expr).as_ref() == of_group);
            same.map(move |(number, _)| groups + number)
        };
        let identities = vec![(0..groups).map(|group| firsts(group).chain([group]).collect()).collect()];
        let of_group = |group: &usize| column(aggregate.group_expr.get(*group)?, aggregate.input.schema());
        let is_time = |group: &usize| of_group(group).is_some_and(|it| built.times.contains(&it));
        let times: BTreeSet<usize> = (0..groups).filter(|column| !changes && is_time(column)).collect();
        let schema = arrow_schema(&aggregate.schema);
        let work = match built.changes {
            false => self.added_up(aggregate, &built)?,
            true => weighed::of(aggregate, &self.planner, built.times.first().copied())?,
        };
        let what = aggregate_text(aggregate);
        let (work, state) = match work {
            Some(plan) => {
                let state = plan.partial.schema();
                (Work::Aggregate(Box::new(plan)), state)
            }
            None => {
                return self
                    .groups(LogicalPlan::Aggregate(aggregate.clone()), &aggregate.group_expr, built, false)
                    .map(|built| Built { changes, identities, times, ..built });
            }
        };
        let number = self.node(work, schema, vec![keeps("groups", &state, &what)]);
        self.link(built.from, To::Node(number, 0));
        Ok(Built { from: Feed::Node(number), changes, identities, times })
    }

    /// An aggregate that can be taken of some rows at a time; `None` where it cannot.
    fn added_up(&self, aggregate: &Aggregate, built: &Built) -> Result<Option<AggregatePlan>> {
        let input = Arc::new(placeholder(0, &aggregate.input).map_err(whole)?);
        let over =
            Aggregate::try_new(input, aggregate.group_expr.clone(), aggregate.aggr_expr.clone()).map_err(whole)?;
        let plan = physical(&LogicalPlan::Aggregate(over), self.planner.state).map_err(whole)?;
        let Some((partial, last)) = cut(plan).map_err(whole)? else { return Ok(None) };
        Ok(Some(AggregatePlan {
            rows: self.schema(built.from),
            weighed: false,
            partial,
            last,
            keys: aggregate.group_expr.len(),
            weight: None,
            time: built.times.first().copied(),
            stays: only_says_that_there_are_some(aggregate),
        }))
    }

    /// Window functions, of whose results only those count for which that holds.
    fn window(&mut self, window: &Window, only: Option<&Expr>) -> Result<Built> {
        let built = self.build(&window.input)?;
        let mut by: Option<Vec<Expr>> = None;
        for expr in &window.window_expr {
            let Expr::WindowFunction(call) = expr.clone().unalias() else { continue };
            let of_call = call.params.partition_by.clone();
            by = Some(match by {
                Some(by) => by.into_iter().filter(|expr| of_call.contains(expr)).collect(),
                None => of_call,
            });
        }
        let plan = LogicalPlan::Window(window.clone());
        let plan = match only {
            Some(only) => LogicalPlan::Filter(Filter::try_new(only.clone(), Arc::new(plan)).map_err(whole)?),
            None => plan,
        };
        let firsts = only.is_some() && !built.changes;
        // The place of a row among those of its group tells rows apart, too.
        let places = firsts::window_identity(window, by.as_deref().unwrap_or_default());
        let mut identities = built.identities.clone();
        if let (Some(places), true) = (&places, only.is_some_and(|only| firsts::is_of_first(window, only))) {
            // There is one of each group.
            identities.push(places.iter().take(places.len() - 1).cloned().collect());
        }
        identities.extend(places);
        let built = self.groups(plan, &by.unwrap_or_default(), built, firsts)?;
        Ok(Built { changes: true, identities, times: BTreeSet::new(), ..built })
    }

    /// A query over the rows of each group, by expressions.
    fn groups(&mut self, plan: LogicalPlan, by: &[Expr], built: Built, keeps_results: bool) -> Result<Built> {
        let input = plan.inputs().first().map(|input| match (&plan, input) {
            (LogicalPlan::Filter(_), LogicalPlan::Window(window)) => Arc::clone(&window.input),
            (_, input) => Arc::new(LogicalPlan::clone(input)),
        });
        let Some(input) = input else { return Err(self.wrong(&[], "this reads nothing", "")) };
        // Groups by what is no column are found by the columns that are; at worst all rows are one.
        let keys: Vec<usize> = by.iter().filter_map(|expr| column(expr, input.schema())).collect();
        let text = plan.display_indent().to_string();
        let schema = arrow_schema(plan.schema());
        let rows = self.schema(built.from);
        let scan = placeholder(0, &input).map_err(whole)?;
        let over = plan.transform_down(|node| match node == *input {
            true => Ok(Transformed::new(scan.clone(), true, TreeNodeRecursion::Jump)),
            false => Ok(Transformed::no(node)),
        });
        let plan = physical(&over.data().map_err(whole)?, self.planner.state).map_err(whole)?;
        let time = built.times.first().copied();
        let what = keeps("rows of groups", &rows, &text);
        let work = Work::Groups(Box::new(GroupsPlan { rows, keys, plan, keeps_results, time }));
        let number = self.node(work, schema, vec![what]);
        self.link(built.from, To::Node(number, 0));
        Ok(Built { from: Feed::Node(number), ..built })
    }

    /// What is wrong, at the only one of these words that is in the text.
    fn wrong(&self, keywords: &[&str], message: &str, help: &str) -> Fault {
        at_only(&self.tokens, keywords, message, help)
    }
}

/// The column of these that an expression is.
fn column(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.maybe_index_of_column(column),
        _ => None,
    }
}

fn keeps(what: &str, schema: &Schema, computed: &str) -> String {
    let column =
        |field: &Arc<arrow::datatypes::Field>| format!("{} {}", field.name(), super::type_name(field.data_type()));
    let columns: Vec<String> = schema.fields().iter().map(column).collect();
    format!("{what} ({}), computed as {:08x}", columns.join(", "), crc32c::crc32c(computed.as_bytes()))
}

fn aggregate_text(aggregate: &Aggregate) -> String {
    LogicalPlan::Aggregate(aggregate.clone()).display_indent().to_string()
}

/// Whether nothing is said of a group that would be another thing once there are more rows of it.
fn only_says_that_there_are_some(aggregate: &Aggregate) -> bool {
    aggregate.aggr_expr.iter().all(is_first)
}

/// Whether it is the first value of a group, in the order in which rows come.
fn is_first(expr: &Expr) -> bool {
    let expr = expr.clone().unalias();
    matches!(&expr, Expr::AggregateFunction(call) if call.params.order_by.is_empty()) && first_of(&expr).is_some()
}

/// Of what it is the first value of a group.
fn first_of(expr: &Expr) -> Option<Expr> {
    match expr.clone().unalias() {
        Expr::AggregateFunction(call) if call.func.name() == "first_value" => call.params.args.first().cloned(),
        _ => None,
    }
}

/// The first step of an aggregate, and what is done with what it gives.
type Cut = (Arc<AggregateExec>, Arc<dyn ExecutionPlan>);

/// Cuts an aggregate in two; `None` where it has no first step right over its rows.
fn cut(plan: Arc<dyn ExecutionPlan>) -> datafusion::common::Result<Option<Cut>> {
    let mut partial = None;
    let rest = plan.transform_down(|node| {
        let Some(step) = node.downcast_ref::<AggregateExec>().filter(|it| *it.mode() == AggregateMode::Partial) else {
            return Ok(Transformed::no(node));
        };
        if !step.input().is::<crate::operator::LeafExec>() {
            return Ok(Transformed::no(node));
        }
        let leaf = crate::operator::LeafExec::new(0, &step.schema(), Vec::new());
        partial = Some(Arc::new(step.clone()));
        Ok(Transformed::new(Arc::new(leaf) as Arc<dyn ExecutionPlan>, true, TreeNodeRecursion::Jump))
    });
    let rest = rest.data()?;
    Ok(partial.map(|partial| (partial, rest)))
}
