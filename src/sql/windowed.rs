//! Optimised plans of queries over windows to what `operator::windowed` evaluates: row by row up to the windows, then for
//! each window by itself. That the latter yields what the query says is checked here: whatever puts rows together has to keep
//! the rows of different windows apart.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, TableReference};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, Join, LogicalPlan, TableScan, TableScanBuilder, UserDefinedLogicalNode, Window,
};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::ensure_requirements::EnsureRequirements;
use datafusion::physical_optimizer::join_selection::JoinSelection;
use datafusion::physical_optimizer::limit_pushdown::LimitPushdown;
use datafusion::physical_optimizer::output_requirements::OutputRequirements;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_optimizer::update_aggr_exprs::OptimizeAggregateOrder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::branches::{self, Planner};
use super::windows::{self, Bound};
use super::{Fault, fault};
use crate::failure::Class;
use crate::operator::{Branch, Conform, End, Leaf, LeafExec, Partial, Plan, Spacing, Step};

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
    let of_rows = |node: &LogicalPlan| {
        matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::TableScan(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Union(_)
                | LogicalPlan::Unnest(_)
                | LogicalPlan::EmptyRelation(_)
                | LogicalPlan::Values(_)
        )
    };
    !plan.exists(|node| Ok(!of_rows(node))).unwrap_or(true)
}

/// What is wrong with a plan whose rows have to stay in their windows.
pub(super) fn faults(plan: &LogicalPlan) -> Vec<Fault> {
    let mut faults = Vec::new();
    look(plan, true, &mut faults);
    faults
}

/// Looks through a plan; `last` says whether nothing but the selection of columns and rows comes behind it.
fn look(plan: &LogicalPlan, last: bool, faults: &mut Vec<Fault>) {
    if is_by_row(plan) {
        if bounds(plan.schema()).next().is_none() {
            faults.push(wrong(
                "a part of the query reads rows of which it is not known what window they are in",
                "read all inputs through tumble or hop, and pass window_start on",
            ));
        }
        return;
    }
    let wrong_here = match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Unnest(_) => None,
        LogicalPlan::Union(_) => None,
        LogicalPlan::Aggregate(aggregate) => (!groups_by_window(aggregate)).then(|| {
            wrong(
                "an aggregate over all windows would never be complete",
                "group by window_start, so that there is one for each window: GROUP BY window_start, …",
            )
        }),
        LogicalPlan::Window(window) => (!partitions_by_window(window)).then(|| {
            wrong(
                "a window function over all windows would never be complete",
                "write window_start where it divides the rows: OVER (PARTITION BY window_start …)",
            )
        }),
        LogicalPlan::Join(join) => (!joins_by_window(join)).then(|| {
            wrong(
                "a join of rows of different windows would have to keep them for ever",
                "join windows of the same kind and size: ON a.window_start = b.window_start AND …",
            )
        }),
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => (!last).then(|| {
            wrong(
                "ORDER BY and LIMIT within a query would be over all windows",
                "write them at its end, where they are for each window, or row_number() OVER (PARTITION BY window_start …)",
            )
        }),
        other => Some(wrong(&format!("this cannot be evaluated window by window: {}", other.display()), "")),
    };
    faults.extend(wrong_here);
    let stays_last = last
        && !matches!(
            plan,
            LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Join(_) | LogicalPlan::Union(_)
        );
    for expr in plan.expressions() {
        let _ = expr.apply(|expr| {
            faults.extend(refused(expr));
            Ok(TreeNodeRecursion::Continue)
        });
    }
    for input in plan.inputs() {
        look(input, stays_last, faults);
    }
}

fn refused(expr: &Expr) -> Option<Fault> {
    match expr {
        Expr::ScalarFunction(call) if windows::are_begun_by(&call.func) => Some(wrong(
            "these windows are over rows that come of windows, and so only once those close",
            "give the query in it a stage of its own, and put the results of that stage into windows",
        )),
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => Some(wrong(
            "a subquery in an expression sees all windows",
            "compare window_start in its WHERE with that of the row: WHERE inner.window_start = outer.window_start",
        )),
        _ => None,
    }
}

fn bounds(schema: &DFSchema) -> impl Iterator<Item = (usize, Bound)> {
    schema.fields().iter().enumerate().filter_map(|(index, field)| Some((index, Bound::of(field)?)))
}

fn bound(expr: &Expr, schema: &DFSchema) -> Option<Bound> {
    Bound::of(&expr.to_field(schema).ok()?.1)
}

fn groups_by_window(aggregate: &Aggregate) -> bool {
    let of_window = |exprs: &[Expr]| exprs.iter().any(|expr| bound(expr, aggregate.input.schema()).is_some());
    // Groups that have no window in some of the sets have nulls in place of it.
    match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(_)] => false,
        exprs => of_window(exprs),
    }
}

fn partitions_by_window(window: &Window) -> bool {
    window.window_expr.iter().all(|expr| match expr.clone().unalias() {
        Expr::WindowFunction(call) => {
            call.params.partition_by.iter().any(|expr| bound(expr, window.input.schema()).is_some())
        }
        _ => false,
    })
}

fn joins_by_window(join: &Join) -> bool {
    join.on.iter().any(|(left, right)| {
        let bounds = (bound(left, join.left.schema()), bound(right, join.right.schema()));
        // Windows that start together end together where they are of one size.
        matches!(bounds, (Some(left), Some(right))
            if left.is_end == right.is_end && (left.is_end || left.size == right.size))
    })
}

fn wrong(message: &str, help: &str) -> Fault {
    Fault { message: message.to_owned(), span: None, help: (!help.is_empty()).then(|| help.to_owned()) }
}

/// What evaluates a plan that yields rows of the schema.
pub(super) fn of_plan(
    plan: &LogicalPlan,
    schema: &SchemaRef,
    state: &SessionState,
    inputs: &[(&str, SchemaRef)],
) -> Result<Plan, Fault> {
    let planner = Planner { state, inputs };
    let (middle, mut above) = planner.above(plan)?;
    let columns = (0..schema.fields().len()).collect();
    above.push(Step::Conform(Conform::new(columns, schema, Class::Expression)));
    let mut leaves = Vec::new();
    let cut = middle.clone().transform_down(|node| match is_by_row(&node) {
        true => {
            let (scan, branches) = (placeholder(leaves.len(), &node)?, planner.branches(&node));
            leaves.push((branches, arrow_schema(node.schema()), bounds(node.schema()).collect::<Vec<_>>()));
            Ok(Transformed::new(scan, true, TreeNodeRecursion::Jump))
        }
        false => Ok(Transformed::no(node)),
    });
    let whole = |error| fault::of_whole(&error);
    let cut = cut.data().map_err(whole)?;
    let physical = futures::executor::block_on(
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Leaves)]).create_physical_plan(&cut, state),
    )
    .map_err(whole)?;
    let leaves = leaves.into_iter().map(|(branches, rows, bounds)| leaf(branches?, rows, &bounds));
    let mut leaves = leaves.collect::<Result<Vec<_>, Fault>>()?;
    let plan = add_up(physical, &mut leaves).map_err(whole)?;
    let is = |test: fn(&LogicalPlan) -> bool| middle.exists(|node| Ok(test(node))).unwrap_or(true);
    Ok(Plan {
        leaves,
        columns: plan.schema(),
        plan,
        above,
        chooses: is(|node| matches!(node, LogicalPlan::Window(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_))),
        is_ordered: matches!(middle, LogicalPlan::Sort(_) | LogicalPlan::Limit(_)),
        schema: Arc::clone(schema),
    })
}

fn leaf(branches: Vec<Branch>, rows: SchemaRef, bounds: &[(usize, Bound)]) -> Result<Leaf, Fault> {
    let columns = (0..rows.fields().len()).collect();
    let last = Step::Conform(Conform::new(columns, &rows, Class::Expression));
    let branches = branches.iter().map(|branch| branch.followed_by(last.clone())).collect();
    match end(&rows, bounds).zip(bounds.first()) {
        Some((end, (_, Bound { slide, size, offset, .. }))) => {
            let spacing = Spacing { slide: *slide, size: *size, offset: *offset };
            Ok(Leaf { branches, rows, end, spacing, partial: None })
        }
        None => Err(wrong("a part of the query reads rows that are in no window", "")),
    }
}

/// When the window of a row with these columns ends.
fn end(schema: &Schema, bounds: &[(usize, Bound)]) -> Option<End> {
    let (column, bound) = bounds.iter().find(|(_, bound)| bound.is_end).or(bounds.first())?;
    End::of(*column, schema.fields().get(*column)?.data_type(), bound.to_end())
}

/// A scan in place of what is evaluated row by row, of the same columns.
fn placeholder(number: usize, of: &LogicalPlan) -> datafusion::common::Result<LogicalPlan> {
    let source = Arc::new(LogicalTableSource::new(arrow_schema(of.schema())));
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

/// Takes the first steps of aggregates right over leaves out of the plan and into these.
fn add_up(plan: Arc<dyn ExecutionPlan>, leaves: &mut [Leaf]) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    let rest = plan.transform_down(|node| {
        let Some(partial) = node.downcast_ref::<AggregateExec>().filter(|it| *it.mode() == AggregateMode::Partial)
        else {
            return Ok(Transformed::no(node));
        };
        let Some(under) = partial.input().downcast_ref::<LeafExec>() else { return Ok(Transformed::no(node)) };
        let (number, schema) = (under.number, partial.schema());
        let groups = partial.group_expr().expr().len();
        let columns = schema.fields().iter().take(groups).enumerate();
        let bounds: Vec<_> = columns.filter_map(|(index, field)| Some((index, Bound::of(field)?))).collect();
        match (leaves.get_mut(number), end(&schema, &bounds)) {
            (Some(leaf), Some(end)) => {
                let aggregate = Arc::new(partial.clone());
                leaf.partial = Some(Partial { aggregate, end });
                let state = Arc::new(LeafExec::new(number, &schema, Vec::new()));
                Ok(Transformed::new(state as _, true, TreeNodeRecursion::Jump))
            }
            _ => Ok(Transformed::no(node)),
        }
    });
    rest.data()
}

fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    branches::arrow_schema(schema)
}
