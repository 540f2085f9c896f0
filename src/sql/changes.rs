//! Optimised plans of queries that put rows together which are in no windows, to what `operator::changes` evaluates: where rows
//! come in, and the nodes that what changes flows through.

mod bounds;
mod weighed;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Aggregate, Expr, Filter, Join, LogicalPlan, Operator, Projection, SubqueryAlias, Window, binary_expr, lit,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::branches::{Planner, arrow_schema, cannot_fail};
use super::refusal::{is_query, is_word};
use super::windowed::{is_by_row, physical, placeholder};
use super::{Asked, Fault, Keep, fault, parse};
use crate::failure::Class;
use crate::operator::{
    AggregatePlan, Branch, Conform, Flow, GroupsPlan, JoinKind, JoinPlan, LatestPlan, Node, Side, Sides, Source, Step,
    To, Work,
};

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

/// So many ways to tell rows apart are followed.
const MOST: usize = 16;

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
        let limited = match firsts(filter) {
            Some(limited) => limited.map_err(whole)?,
            None => LogicalPlan::clone(&filter.input),
        };
        let built = match &limited {
            LogicalPlan::Filter(Filter { input, predicate, .. }) => match input.as_ref() {
                LogicalPlan::Window(window) => self.window(window, Some(predicate))?,
                _ => self.build(&limited)?,
            },
            LogicalPlan::Window(window) if counts(window, &filter.predicate) => {
                self.window(window, Some(&filter.predicate))?
            }
            _ => self.build(&limited)?,
        };
        let steps = self.planner.filter(filter)?;
        let schema = arrow_schema(filter.input.schema());
        Ok(self.then(built, steps, schema))
    }

    /// A join, and what must hold for its results besides.
    fn join(&mut self, join: &Join, conditions: Vec<Expr>) -> Result<Built> {
        let has_refs =
            |expr: &Expr, plan: &LogicalPlan| expr.column_refs().iter().all(|column| plan.schema().has_column(column));
        // What can be said of a row by itself is said before it is kept.
        let (mut left, mut right) = (LogicalPlan::clone(&join.left), LogicalPlan::clone(&join.right));
        let (mut of_pairs, mut above) = (Vec::new(), Vec::new());
        for condition in conditions {
            let physical = self.planner.physical(&condition, &join.schema)?;
            let goes = |plan: LogicalPlan| Filter::try_new(condition.clone(), Arc::new(plan)).map(LogicalPlan::Filter);
            match (has_refs(&condition, &left), has_refs(&condition, &right), cannot_fail(&physical)) {
                (false, false, _) => of_pairs.push(condition),
                (_, _, false) => above.push(condition),
                (true, _, true) => left = goes(left).map_err(whole)?,
                (_, true, true) => right = goes(right).map_err(whole)?,
            }
        }
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Pairs(Sides(false, false)),
            JoinType::Left => JoinKind::Pairs(Sides(true, false)),
            JoinType::Right => JoinKind::Pairs(Sides(false, true)),
            JoinType::Full => JoinKind::Pairs(Sides(true, true)),
            JoinType::LeftSemi => JoinKind::Semi,
            JoinType::LeftAnti if !join.null_aware => JoinKind::Anti,
            other => {
                return Err(self.wrong(
                    &["IN", "EXISTS"],
                    &format!("this cannot be kept up to date: a {other} join"),
                    "write it as a join, or with NOT EXISTS",
                ));
            }
        };
        let built = Sides(self.build(&left)?, self.build(&right)?);
        let schemas: Sides<&DFSchema> = Sides(left.schema(), right.schema());
        let filters = join.filter.iter().flat_map(split_conjunction).cloned();
        let filters: Vec<Expr> = filters.chain(of_pairs).collect();
        let found = bounds::of(&filters, &join.on, schemas, Sides(&built.0.times, &built.1.times));
        if found.iter().any(Option::is_none) && self.keep.ttl.is_none() {
            let fault = self.wrong(
                &["JOIN", "EXISTS", "IN", "EXCEPT", "INTERSECT"],
                "rows of this join would be kept for ever: nothing says until when their partners can come",
                "bound it in event time, ON … AND a.time BETWEEN b.time - INTERVAL '1 hour' AND b.time; or say how long rows are \
                 kept: state_ttl = \"1d\" in the stage",
            );
            self.faults.push(fault);
        }
        let (left_on, right_on): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        let of_sides = [(left_on, found.0, schemas.0, &built.0), (right_on, found.1, schemas.1, &built.1)];
        let sides = of_sides.map(|(on, until, schema, built)| -> Result<Side> {
            Ok(Side {
                schema: self.schema(built.from),
                on: on.iter().map(|expr| self.planner.physical(expr, schema)).collect::<Result<_>>()?,
                until: until.map(|until| self.planner.physical(&until, schema)).transpose()?,
                time: built.times.first().copied(),
                changes: built.changes,
            })
        });
        let [first, second] = sides;
        let sides = Sides(first?, second?);
        let both = schemas.0.join(schemas.1).map_err(whole)?;
        let filter = conjunction(filters).map(|filter| self.planner.physical(&filter, &both)).transpose()?;
        let stay = sides.iter().all(|side| !side.changes);
        let waits = |side: usize| sides.of(side).until.is_some() && stay;
        let stays = stay
            && match kind {
                JoinKind::Pairs(lonely) => (0..2).all(|side| !lonely.of(side) || waits(side)),
                JoinKind::Semi => true,
                JoinKind::Anti => waits(0),
            };
        let bounded = Sides(sides.0.until.is_some(), sides.1.until.is_some());
        let width = sides.0.schema.fields().len();
        let shifted = |parts: &Parts| -> Parts {
            parts.iter().map(|part| part.iter().map(|column| column + width).collect()).collect()
        };
        let identities: Vec<Parts> = match kind {
            JoinKind::Semi | JoinKind::Anti => built.0.identities.clone(),
            JoinKind::Pairs(_) => {
                let pairs = built
                    .0
                    .identities
                    .iter()
                    .flat_map(|left| built.1.identities.iter().map(move |right| (left, right)));
                pairs.map(|(left, right)| left.iter().cloned().chain(shifted(right)).collect()).take(MOST).collect()
            }
        };
        // What has to be the same on both sides is the same.
        let column = |expr: &Expr, schema: &DFSchema| match expr {
            Expr::Column(column) => schema.maybe_index_of_column(column),
            _ => None,
        };
        let equal: Vec<(usize, usize)> = match kind {
            JoinKind::Pairs(Sides(false, false)) => {
                let pair =
                    |(left, right): &(Expr, Expr)| Some((column(left, schemas.0)?, column(right, schemas.1)? + width));
                join.on.iter().filter_map(pair).collect()
            }
            _ => Vec::new(),
        };
        let widened = |mut part: BTreeSet<usize>| {
            for (left, right) in &equal {
                if part.contains(left) || part.contains(right) {
                    part.extend([*left, *right]);
                }
            }
            part
        };
        let identities = identities.into_iter().map(|parts| parts.into_iter().map(widened).collect()).collect();
        let of_first = built.0.times.iter().copied();
        let times: BTreeSet<usize> = match kind {
            JoinKind::Pairs(_) => of_first.chain(built.1.times.iter().map(|time| time + width)).collect(),
            JoinKind::Semi | JoinKind::Anti => of_first.collect(),
        };
        // Rows that have no partner are nothing at that time of the other side.
        let times = match kind {
            JoinKind::Pairs(Sides(true, false)) => times.into_iter().filter(|time| *time < width).collect(),
            JoinKind::Pairs(Sides(false, true)) => times.into_iter().filter(|time| *time >= width).collect(),
            JoinKind::Pairs(Sides(true, true)) => BTreeSet::new(),
            _ => times,
        };
        let texts = [&left, &right].map(|plan| plan.display_indent().to_string());
        let keeps =
            texts.iter().zip(sides.iter()).map(|(text, side)| keeps("rows of a join", &side.schema, text)).collect();
        let null_equals_null = join.null_equality == NullEquality::NullEqualsNull;
        let schema = arrow_schema(&join.schema);
        let work = Work::Join(Box::new(JoinPlan { kind, sides, null_equals_null, filter }));
        let number = self.node(work, schema, keeps);
        for (side, built) in built.iter().enumerate() {
            self.link(built.from, To::Node(number, side));
            if let Feed::Source(source) = built.from
                && let Some(source) = self.sources.get_mut(source)
            {
                source.can_be_late = *bounded.of(1 - side);
            }
        }
        let times = if stays { times } else { BTreeSet::new() };
        let built = Built { from: Feed::Node(number), changes: !stays, identities, times };
        match conjunction(above) {
            None => Ok(built),
            Some(condition) => {
                let filter = Filter::try_new(condition, Arc::new(LogicalPlan::Join(join.clone()))).map_err(whole)?;
                let steps = self.planner.filter(&filter)?;
                Ok(self.then(built, steps, arrow_schema(&join.schema)))
            }
        }
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
        let (changes, identities) =
            (built.changes || !only_says_that_there_are_some(aggregate), vec![parts(0..groups)]);
        let is_plain = |column: &usize| matches!(aggregate.group_expr.get(*column), Some(Expr::Column(_)));
        let of_group = |column: &usize| {
            let Some(Expr::Column(name)) = aggregate.group_expr.get(*column) else { return None };
            aggregate.input.schema().maybe_index_of_column(name)
        };
        let is_time = |column: &usize| is_plain(column) && of_group(column).is_some_and(|it| built.times.contains(&it));
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
        let places = window_identity(window, by.as_deref().unwrap_or_default());
        let mut identities = built.identities.clone();
        if let (Some(places), true) = (&places, only.is_some_and(|only| is_of_first(window, only))) {
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
        let column = |expr: &Expr| match expr {
            Expr::Column(column) => input.schema().maybe_index_of_column(column),
            _ => None,
        };
        // Groups by what is no column are found by the columns that are; at worst all rows are one.
        let keys: Vec<usize> = by.iter().filter_map(column).collect();
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
        let is_keyword = |token: &Token| keywords.iter().any(|keyword| is_word(token, keyword));
        let mut places = self.tokens.iter().filter(|(token, _)| is_keyword(token)).map(|(_, place)| place);
        let span = places.next().filter(|_| places.next().is_none()).cloned();
        Fault { message: message.to_owned(), span, help: (!help.is_empty()).then(|| help.to_owned()) }
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
    matches!(&expr, Expr::AggregateFunction(call) if call.func.name() == "first_value" && call.params.order_by.is_empty())
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

/// Whether a condition leaves the first rows of each group only, as a window function numbers them.
fn counts(window: &Window, condition: &Expr) -> bool {
    let numbers: Vec<String> =
        window.window_expr.iter().filter(|expr| is_number(expr)).map(|expr| expr.schema_name().to_string()).collect();
    window.window_expr.len() == numbers.len()
        && split_conjunction(condition)
            .into_iter()
            .any(|condition| limit(condition).is_some_and(|(name, _)| numbers.contains(&name)))
}

fn is_number(expr: &Expr) -> bool {
    let Expr::WindowFunction(call) = expr.clone().unalias() else { return false };
    matches!(call.fun.name(), "row_number" | "rank" | "dense_rank")
}

/// The column that a condition bounds from above, and by how much.
fn limit(condition: &Expr) -> Option<(String, u64)> {
    let Expr::BinaryExpr(both) = condition else { return None };
    let number = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::UInt64(Some(number)), _) => Some(*number),
        Expr::Literal(ScalarValue::Int64(Some(number)), _) => u64::try_from(*number).ok(),
        _ => None,
    };
    let name = |expr: &Expr| match expr {
        Expr::Column(column) => Some(column.name.clone()),
        _ => None,
    };
    match both.op {
        Operator::LtEq | Operator::Eq => Some((name(&both.left)?, number(&both.right)?)),
        Operator::Lt => Some((name(&both.left)?, number(&both.right)?.checked_sub(1)?)),
        Operator::GtEq => Some((name(&both.right)?, number(&both.left)?)),
        Operator::Gt => Some((name(&both.right)?, number(&both.left)?.checked_sub(1)?)),
        _ => None,
    }
}

/// Whether a condition leaves none but the first row of each group.
fn is_of_first(window: &Window, condition: &Expr) -> bool {
    let numbers: Vec<String> = window
        .window_expr
        .iter()
        .filter(|expr| is_row_number(expr))
        .map(|expr| expr.schema_name().to_string())
        .collect();
    let leaves_one =
        |condition: &Expr| limit(condition).is_some_and(|(name, most)| most == 1 && numbers.contains(&name));
    numbers.len() == 1 && split_conjunction(condition).into_iter().any(leaves_one)
}

fn is_row_number(expr: &Expr) -> bool {
    matches!(expr.clone().unalias(), Expr::WindowFunction(call) if call.fun.name() == "row_number")
}

/// The same rows, of which only the first of each group are looked at, where the condition wants no others: that which it says of
/// the number of a row is said right behind the window function, too.
fn firsts(filter: &Filter) -> Option<datafusion::common::Result<LogicalPlan>> {
    fn down(plan: &LogicalPlan, column: usize, most: u64) -> Option<datafusion::common::Result<LogicalPlan>> {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => Some(down(&alias.input, column, most)?.and_then(|input| {
                SubqueryAlias::try_new(Arc::new(input), alias.alias.clone()).map(LogicalPlan::SubqueryAlias)
            })),
            LogicalPlan::Projection(projection) => {
                let Expr::Column(name) = projection.expr.get(column)?.clone().unalias() else { return None };
                let column = projection.input.schema().maybe_index_of_column(&name)?;
                Some(down(&projection.input, column, most)?.and_then(|input| {
                    Projection::try_new(projection.expr.clone(), Arc::new(input)).map(LogicalPlan::Projection)
                }))
            }
            LogicalPlan::Window(window) => {
                let of_rows = window.input.schema().fields().len();
                let all_number = window.window_expr.iter().all(is_number);
                window.window_expr.get(column.checked_sub(of_rows)?).filter(|_| all_number)?;
                let number = Expr::from(window.schema.qualified_field(column));
                let condition = binary_expr(number, Operator::LtEq, lit(most));
                Some(Filter::try_new(condition, Arc::new(plan.clone())).map(LogicalPlan::Filter))
            }
            _ => None,
        }
    }
    let conditions = split_conjunction(&filter.predicate);
    conditions.into_iter().filter_map(limit).find_map(|(name, most)| {
        let column = filter.input.schema().fields().iter().position(|field| *field.name() == name)?;
        down(&filter.input, column, most)
    })
}

/// The columns that tell the first rows of groups apart: those of the group and the place in it.
fn window_identity(window: &Window, by: &[Expr]) -> Option<Vec<BTreeSet<usize>>> {
    let of_rows = window.input.schema().fields().len();
    let number = window.window_expr.iter().position(is_row_number)?;
    let column = |expr: &Expr| match expr {
        Expr::Column(column) => window.input.schema().maybe_index_of_column(column),
        _ => None,
    };
    let mut columns: Vec<usize> = by.iter().map(column).collect::<Option<_>>()?;
    columns.push(of_rows + number);
    Some(parts(columns))
}
