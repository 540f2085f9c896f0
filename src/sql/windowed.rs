//! Optimised plans of queries over windows to what `operator::windowed` evaluates: row by row up to the windows, then for
//! each window by itself. That the latter yields what the query says is checked here: whatever puts rows together has to keep
//! the rows of different windows apart.

mod keys;
mod panes;
mod partials;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema, TableReference};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, Join, LogicalPlan, Projection, TableScan, TableScanBuilder, UserDefinedLogicalNode,
    Window,
};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_optimizer::join_selection::JoinSelection;
use datafusion::physical_optimizer::limit_pushdown::LimitPushdown;
use datafusion::physical_optimizer::output_requirements::OutputRequirements;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_optimizer::update_aggr_exprs::OptimizeAggregateOrder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::branches::{Planner, arrow_schema};
use super::refusal::{at_only, is_of_rows, is_query};
use super::windows::{self, Bound};
use super::{Fault, fault, parse};
use crate::failure::Class;
use crate::operator::{Also, Branch, Conform, Kind, Leaf, LeafExec, Place, Plan, Step};

/// What is done to the plan of a window before it is evaluated. Nothing that would put the two steps of an aggregate together,
/// or lean on how many rows there are.
pub(super) fn optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    vec![
        Arc::new(OutputRequirements::new_add_mode()),
        Arc::new(JoinSelection::new()),
        Arc::new(EnsureRequirements::new()),
        Arc::new(OptimizeAggregateOrder::new()),
        Arc::new(OutputRequirements::new_remove_mode()),
        Arc::new(LimitPushdown::new()),
        Arc::new(SanityCheckPlan::new()),
    ]
}

/// Whether a plan is evaluated row by row.
pub(super) fn is_by_row(plan: &LogicalPlan) -> bool {
    let has_query = |expr: &Expr| expr.exists(|expr| Ok(is_query(expr))).unwrap_or(true);
    !plan.exists(|node| Ok(!is_of_rows(node) || node.expressions().iter().any(has_query))).unwrap_or(true)
}

/// Whether a plan has sessions, of which it is not known by row which they are.
pub(super) fn has_sessions(plan: &LogicalPlan) -> bool {
    let is_session = |expr: &Expr| matches!(expr, Expr::ScalarFunction(call) if windows::of_session(call).is_some());
    let has = |expr: &Expr| expr.exists(|expr| Ok(is_session(expr))).unwrap_or(true);
    plan.exists(|node| Ok(node.expressions().iter().any(has))).unwrap_or(true)
}

/// Whether rows are kept as such a plan yields them: it is evaluated row by row, and does nothing with the bounds of sessions,
/// which are not known yet.
pub(super) fn is_leaf(plan: &LogicalPlan) -> bool {
    let of_session = |field: &Field| Bound::of(field).is_some_and(|bound| matches!(bound.of, Kind::Sessions { .. }));
    let uses = |node: &LogicalPlan, expr: Expr| {
        let expr = expr.unalias();
        let inputs = node.inputs();
        let mut fields = expr
            .column_refs()
            .into_iter()
            .flat_map(|column| inputs.iter().filter_map(|input| input.schema().field_from_column(column).ok()));
        !matches!(expr, Expr::Column(_)) && fields.any(|field| of_session(field))
    };
    // A session is of all its rows, also of those that are left out afterwards.
    let changes_rows = |node: &LogicalPlan| {
        matches!(node, LogicalPlan::Filter(_) | LogicalPlan::Unnest(_) | LogicalPlan::Union(_))
            && node.inputs().into_iter().any(has_sessions)
    };
    let does = |node: &LogicalPlan| changes_rows(node) || node.expressions().into_iter().any(|expr| uses(node, expr));
    is_by_row(plan) && !plan.exists(|node| Ok(does(node))).unwrap_or(true)
}

/// Whether it puts rows into windows of which it is not known yet which sessions they are in.
fn puts_sessions_into_windows(node: &LogicalPlan) -> bool {
    node.expressions().iter().any(windows::are_begun_in) && node.inputs().into_iter().any(has_sessions)
}

/// What is wrong with the plan of a query whose rows have to stay in their windows.
pub(super) fn faults(plan: &LogicalPlan, sql: &str) -> Vec<Fault> {
    let has_sessions = has_sessions(plan);
    let mut look = Look { tokens: parse::tokens(sql), faults: Vec::new(), reads_without: false, has_sessions };
    look.through(plan, true);
    if look.faults.is_empty() && plan.exists(|node| Ok(puts_sessions_into_windows(node))).unwrap_or(true) {
        look.of_windows_that_close();
    }
    // Where a window is not asked for, it is not read either.
    if look.reads_without && look.faults.is_empty() {
        look.wrong(
            &[],
            "a part of the query reads rows of which it is not known what window they are in",
            "read all inputs through tumble, hop or session, and select window_start",
        );
    }
    look.faults
}

struct Look {
    tokens: Vec<(Token, Range<usize>)>,
    faults: Vec<Fault>,
    /// Whether rows are read whose window is not known.
    reads_without: bool,
    /// Whether some of the windows are sessions.
    has_sessions: bool,
}

impl Look {
    /// Looks through a plan; `last` says whether nothing but the selection of columns and rows comes behind it.
    fn through(&mut self, plan: &LogicalPlan, last: bool) {
        if is_leaf(plan) {
            self.reads_without |= bounds(plan.schema().fields()).is_empty();
            return;
        }
        match plan {
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Unnest(_)
            | LogicalPlan::Union(_) => {}
            LogicalPlan::Aggregate(aggregate) if groups_by_window(aggregate) => {}
            LogicalPlan::Aggregate(aggregate) if matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]) => {
                self.wrong(
                    &["ROLLUP", "CUBE", "SETS"],
                    "grouping sets are not supported over windows",
                    "write a query for each of the sets, with UNION ALL between them",
                );
            }
            LogicalPlan::Aggregate(_) => self.wrong(
                &["GROUP", "DISTINCT"],
                "an aggregate over all windows would never be complete",
                match self.has_sessions {
                    false => "group by window_start, so that there is one for each window: GROUP BY window_start, …",
                    true => {
                        "group by window_end, or by window_start and all columns of the session, unchanged and of the same \
                         session(): GROUP BY window_end, …"
                    }
                },
            ),
            LogicalPlan::Window(window) if partitions_by_window(window) => {}
            LogicalPlan::Window(_) => self.wrong(
                &["OVER"],
                "a window function over all windows would never be complete",
                match self.has_sessions {
                    false => "write window_start where it divides the rows: OVER (PARTITION BY window_start …)",
                    true => "write window_end where it divides the rows: OVER (PARTITION BY window_end …)",
                },
            ),
            LogicalPlan::Join(join) if joins_by_window(join) => {}
            LogicalPlan::Join(_) => self.wrong(
                &["JOIN", "EXCEPT", "INTERSECT", "EXISTS"],
                "a join of rows of different windows would have to keep them for ever",
                match self.has_sessions {
                    false => "join windows of one size, by window: ON a.window_start = b.window_start AND …",
                    true => "join windows by their ends: ON a.window_end = b.window_end AND …",
                },
            ),
            LogicalPlan::Sort(_) | LogicalPlan::Limit(_) if last => {}
            LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => self.wrong(
                &["LIMIT", "ORDER"],
                "ORDER BY and LIMIT within a query would be over all windows",
                "write them at its end, where they are for each window, or row_number() OVER (PARTITION BY window_start …)",
            ),
            other => {
                self.wrong(&[], &format!("this cannot be evaluated window by window: {}", other.display()), "");
            }
        }
        for expr in plan.expressions() {
            let _ = expr.apply(|expr| {
                self.expression(expr);
                Ok(TreeNodeRecursion::Continue)
            });
        }
        let stays_last = !matches!(
            plan,
            LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Join(_) | LogicalPlan::Union(_)
        );
        for input in plan.inputs() {
            self.through(input, last && stays_last);
        }
    }

    fn of_windows_that_close(&mut self) {
        self.wrong(
            &[],
            "these windows are over rows that come of windows, and so only once those close",
            "give the query in it a stage of its own, and put the results of that stage into windows",
        );
    }

    fn expression(&mut self, expr: &Expr) {
        match expr {
            Expr::ScalarFunction(call) if windows::are_begun_by(&call.func) => self.of_windows_that_close(),
            expr if is_query(expr) => self.wrong(
                &[],
                "a subquery in an expression sees all windows",
                "compare window_end in its WHERE with that of the row: WHERE inner.window_end = outer.window_end",
            ),
            _ => {}
        }
    }

    /// Says what is wrong, at the only one of these words that is in the text.
    fn wrong(&mut self, keywords: &[&str], message: &str, help: &str) {
        self.faults.push(at_only(&self.tokens, keywords, message, help));
    }
}

/// Whether rows that have these values in common are of the same window.
fn tell_windows(exprs: &[Expr], schema: &DFSchema) -> bool {
    let fields: Vec<FieldRef> = exprs.iter().filter_map(|expr| Some(expr.to_field(schema).ok()?.1)).collect();
    let shared: BTreeSet<(usize, i64)> = fields.iter().filter_map(|field| windows::shared(field)).collect();
    let tells = |bound: Bound| match bound.of {
        Kind::Spaced(_) => true,
        // Sessions of others can start at the same time, and end at another.
        Kind::Sessions { keys, .. } => {
            bound.is_end || shared.iter().filter(|(_, call)| Some(*call) == bound.call).count() == keys
        }
    };
    fields.iter().filter_map(|field| Bound::of(field)).any(tells)
}

/// The columns that have bounds of windows.
fn bounds<'a>(columns: impl IntoIterator<Item = &'a FieldRef>) -> Vec<(usize, Bound)> {
    columns.into_iter().enumerate().filter_map(|(index, field)| Some((index, Bound::of(field)?))).collect()
}

fn groups_by_window(aggregate: &Aggregate) -> bool {
    // Groups that have no window in some of the sets have nulls in place of it.
    match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(_)] => false,
        exprs => tell_windows(exprs, aggregate.input.schema()),
    }
}

fn partitions_by_window(window: &Window) -> bool {
    window.window_expr.iter().all(|expr| match expr.clone().unalias() {
        Expr::WindowFunction(call) => tell_windows(&call.params.partition_by, window.input.schema()),
        _ => false,
    })
}

fn joins_by_window(join: &Join) -> bool {
    let both = |(left, right): &(Expr, Expr)| {
        let field = |expr: &Expr, schema: &DFSchema| expr.to_field(schema).ok().map(|(_, field)| field);
        Some((field(left, join.left.schema())?, field(right, join.right.schema())?))
    };
    let equal: Vec<(FieldRef, FieldRef)> = join.on.iter().filter_map(both).collect();
    let shares = |key: (usize, i64)| {
        let is_it = |field: &FieldRef| windows::shared(field) == Some(key);
        equal.iter().any(|(left, right)| is_it(left) && is_it(right))
    };
    equal.iter().any(|(left, right)| {
        let (Some(left), Some(right)) = (Bound::of(left), Bound::of(right)) else { return false };
        let end_together = match (left.of, right.of) {
            _ if left.is_end || right.is_end => true,
            // Windows that start together end together where they are of one size, and sessions where they are the same.
            (Kind::Spaced(left), Kind::Spaced(right)) => left.size == right.size,
            (Kind::Sessions { keys, .. }, Kind::Sessions { .. }) => {
                let call = left.call.filter(|_| left.call == right.call);
                call.is_some_and(|call| (0..keys).all(|key| shares((key, call))))
            }
            _ => false,
        };
        left.is_end == right.is_end && end_together
    })
}

/// What evaluates a plan that yields rows of the schema, and for how many windows it keeps a row at most.
pub(super) fn of_plan(
    plan: &LogicalPlan,
    schema: &SchemaRef,
    state: &SessionState,
    inputs: &[(&str, SchemaRef)],
) -> Result<(Plan, i64), Fault> {
    let planner = Planner { state, inputs };
    let (middle, mut above) = planner.above(plan)?;
    let columns = (0..schema.fields().len()).collect();
    above.push(Step::Conform(Conform::new(columns, schema, Class::Expression)));
    let mut below = Vec::new();
    let cut = middle.clone().transform_down(|node| match is_leaf(&node) {
        true => {
            let schema = Arc::clone(node.schema());
            let node = keys::with_all(node)?;
            let mut scan = placeholder(below.len(), &node)?;
            if node.schema().fields().len() > schema.fields().len() {
                let columns = schema.iter().map(Expr::from).collect();
                scan = LogicalPlan::Projection(Projection::try_new_with_schema(columns, Arc::new(scan), schema)?);
            }
            below.push(node);
            Ok(Transformed::new(scan, true, TreeNodeRecursion::Jump))
        }
        false => Ok(Transformed::no(node)),
    });
    let whole = |error| fault::of_whole(&error);
    let cut = cut.data().map_err(whole)?;
    let physical = physical(&cut, state).map_err(whole)?;
    let leaves = below.iter().map(|below| leaf(planner.branches(below)?, below));
    let mut leaves = leaves.collect::<Result<Vec<_>, Fault>>()?;
    let plan = partials::add_up(physical, &mut leaves).map_err(whole)?;
    let mut most = 0;
    for (leaf, below) in leaves.iter_mut().zip(below) {
        let copies = windows::most_of_a_row(&below);
        if !in_panes(leaf, below, &planner)? {
            most = most.max(copies);
        }
    }
    let is = |test: fn(&LogicalPlan) -> bool| middle.exists(|node| Ok(test(node))).unwrap_or(true);
    let plan = Plan {
        leaves,
        columns: plan.schema(),
        place: place(&plan.schema(), &bounds(middle.schema().fields())),
        plan,
        above,
        chooses: is(|node| matches!(node, LogicalPlan::Window(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_))),
        is_ordered: matches!(middle, LogicalPlan::Sort(_) | LogicalPlan::Limit(_)),
        also: Also::default(),
        schema: Arc::clone(schema),
    };
    Ok((plan, most))
}

fn leaf(branches: Vec<Branch>, below: &LogicalPlan) -> Result<Leaf, Fault> {
    let rows = arrow_schema(below.schema());
    let bounds = bounds(rows.fields());
    let none =
        || Fault { message: "a part of the query reads rows that are in no window".into(), span: None, help: None };
    let (column, first) = bounds.first().ok_or_else(none)?;
    let place = match first.of {
        Kind::Spaced(_) => place(&rows, &bounds),
        Kind::Sessions { gap, keys } => {
            let shared = rows
                .fields()
                .iter()
                .enumerate()
                .filter_map(|(column, field)| Some((windows::shared(field)?.0, column)));
            let shared: BTreeMap<usize, usize> = shared.collect();
            if shared.len() < keys {
                return Err(Fault {
                    message: "whose sessions they are is not known where rows are put together".into(),
                    span: None,
                    help: Some("pass on all columns that session() names: select them, or group by them".into()),
                });
            }
            let from_row = if first.is_end { gap } else { 0 };
            let data_type = rows.fields().get(*column).map(|field| field.data_type());
            let of_bounds = bounds.iter().map(|(column, bound)| (*column, bound.is_end)).collect();
            let shared = shared.into_values().collect();
            data_type.and_then(|data_type| Place::session(*column, data_type, from_row, gap, shared, of_bounds))
        }
    };
    let (place, branches) = (place.ok_or_else(none)?, conforming(&branches, &rows));
    let computed = crc32c::crc32c(below.display_indent().to_string().as_bytes());
    Ok(Leaf { branches, rows, computed, place, windows: first.of, partial: None })
}

fn conforming(branches: &[Branch], rows: &SchemaRef) -> Vec<Branch> {
    let columns = (0..rows.fields().len()).collect();
    let last = Step::Conform(Conform::new(columns, rows, Class::Expression));
    branches.iter().map(|branch| branch.followed_by(last.clone())).collect()
}

/// The window of a row with these columns.
fn place(schema: &Schema, bounds: &[(usize, Bound)]) -> Option<Place> {
    let (column, bound) = bounds.iter().find(|(_, bound)| bound.is_end).or(bounds.first())?;
    Place::window(*column, schema.fields().get(*column)?.data_type(), bound.to_end())
}

/// Lets rows be added up by panes, of which windows that slide have many in common, where nothing else is done with the windows
/// than that rows are grouped by them. Gives whether that is so.
fn in_panes(leaf: &mut Leaf, below: LogicalPlan, planner: &Planner<'_>) -> Result<bool, Fault> {
    let Kind::Spaced(spacing) = leaf.windows else { return Ok(false) };
    let Some(partial) = leaf.partial.as_mut().filter(|_| spacing.slide < spacing.size) else { return Ok(false) };
    let of_rows = bounds(leaf.rows.fields());
    let of_windows: Vec<usize> = of_rows.iter().map(|(column, _)| *column).collect();
    if !panes::only_groups(&partial.aggregate, &of_windows) {
        return Ok(false);
    }
    let whole = |error| fault::of_whole(&error);
    let Some(below) = panes::instead_of_windows(below, spacing).map_err(whole)? else { return Ok(false) };
    let schema = partial.aggregate.schema();
    let of_partial = groups(&partial.aggregate);
    let from_start = |bound: &Bound| if bound.is_end { spacing.size } else { 0 };
    let pane = |schema: &Schema, bounds: &[(usize, Bound)]| {
        let (column, bound) = bounds.first()?;
        Place::pane(*column, schema.fields().get(*column)?.data_type(), from_start(bound), spacing)
    };
    let (Some(of_rows), Some(of_partial)) = (pane(&leaf.rows, &of_rows), pane(&schema, &of_partial)) else {
        return Ok(false);
    };
    leaf.branches = conforming(&planner.branches(&below)?, &leaf.rows);
    leaf.place = of_rows;
    partial.place = of_partial;
    Ok(true)
}

/// The columns by which a first step of an aggregate groups that have bounds of windows.
fn groups(partial: &AggregateExec) -> Vec<(usize, Bound)> {
    bounds(partial.schema().fields().iter().take(partial.group_expr().expr().len()))
}

/// What evaluates a plan whose rows come from placeholders.
pub(super) fn physical(plan: &LogicalPlan, state: &SessionState) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Leaves)]);
    futures::executor::block_on(planner.create_physical_plan(plan, state))
}

/// A scan in place of what is evaluated by itself, of the same columns.
pub(super) fn placeholder(number: usize, of: &LogicalPlan) -> datafusion::common::Result<LogicalPlan> {
    // Of two tables that were joined, columns can have the same name.
    let columns = of.schema().fields().iter().enumerate();
    let columns = columns.map(|(index, field)| field.as_ref().clone().with_name(index.to_string()));
    let source = Arc::new(LogicalTableSource::new(Arc::new(Schema::new(columns.collect::<Vec<_>>()))));
    let scan = TableScanBuilder::new(TableReference::bare(number.to_string()), source).build()?;
    Ok(LogicalPlan::TableScan(TableScan { projected_schema: Arc::clone(of.schema()), ..scan }))
}

/// Makes leaves of placeholders.
struct Leaves;

#[async_trait]
impl ExtensionPlanner for Leaves {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        _: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        _: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> datafusion::common::Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(None)
    }

    async fn plan_table_scan(
        &self,
        _: &dyn PhysicalPlanner,
        scan: &TableScan,
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> datafusion::common::Result<Option<Arc<dyn ExecutionPlan>>> {
        let number = scan.table_name.table().parse().ok();
        let leaf = |number| Arc::new(LeafExec::new(number, &arrow_schema(&scan.projected_schema), Vec::new())) as _;
        Ok(number.map(leaf))
    }
}
