//! Optimised plans to branches: for each way by which rows of an input become results, the steps on it. How the steps are
//! evaluated lives in `operator`.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Operator, Projection, TableScan, Unnest};
use datafusion::optimizer::OptimizerRule;
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::propagate_empty_relation::PropagateEmptyRelation;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr, lit,
};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::unnest::ListUnnest;

use super::{Fault, fault, windowed};
use crate::failure::Class;
use crate::operator::{self, Branch, Conform, Project, Step};

/// What is done to a plan before branches are made of it. Nothing that would evaluate an expression for more rows, or a
/// condition earlier, than the query says: an expression that fails makes its row a reject.
pub(super) fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(PropagateEmptyRelation::new()),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ]
}

/// The branches of a plan that yields rows of the schema.
pub(super) fn of_plan(
    plan: &LogicalPlan,
    schema: &SchemaRef,
    state: &SessionState,
    inputs: &[(&str, SchemaRef)],
) -> Result<Vec<Branch>, Fault> {
    let columns = (0..schema.fields().len()).collect();
    let last = Step::Conform(Conform::new(columns, schema, Class::Expression));
    let branches = Planner { state, inputs }.branches(plan)?;
    Ok(branches.iter().map(|branch| branch.followed_by(last.clone())).collect())
}

pub(super) struct Planner<'a> {
    pub(super) state: &'a SessionState,
    pub(super) inputs: &'a [(&'a str, SchemaRef)],
}

impl Planner<'_> {
    /// The last part of a plan that is not evaluated row by row, and the steps on its rows that come behind it.
    pub(super) fn above<'p>(&self, plan: &'p LogicalPlan) -> Result<(&'p LogicalPlan, Vec<Step>), Fault> {
        if windowed::is_leaf(plan) {
            return Ok((plan, Vec::new()));
        }
        let (input, steps) = match plan {
            LogicalPlan::SubqueryAlias(alias) => (&alias.input, Vec::new()),
            LogicalPlan::Projection(projection) => (&projection.input, vec![self.project(projection)?]),
            LogicalPlan::Filter(filter) => (&filter.input, self.filter(filter)?),
            LogicalPlan::Unnest(node) => (&node.input, vec![unnest(node)]),
            other => return Ok((other, Vec::new())),
        };
        let (middle, mut above) = self.above(input)?;
        above.extend(steps);
        Ok((middle, above))
    }

    pub(super) fn branches(&self, plan: &LogicalPlan) -> Result<Vec<Branch>, Fault> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.branches(&alias.input),
            LogicalPlan::Projection(projection) => self.then(&projection.input, &[self.project(projection)?]),
            LogicalPlan::Filter(filter) => self.then(&filter.input, &self.filter(filter)?),
            LogicalPlan::Unnest(node) => self.then(&node.input, &[unnest(node)]),
            LogicalPlan::Union(union) => {
                let branches = union.inputs.iter().map(|input| self.branches(input));
                Ok(branches.collect::<Result<Vec<_>, _>>()?.concat())
            }
            LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row => Ok(Vec::new()),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Err(Fault {
                message: "a part of the query reads none of the stage's inputs".into(),
                span: None,
                help: Some("every row of a stage comes from a row of a stage before it: name one in FROM".into()),
            }),
            other => {
                let what = other.display().to_string();
                Err(unsupported(&what))
            }
        }
    }

    fn then(&self, input: &LogicalPlan, steps: &[Step]) -> Result<Vec<Branch>, Fault> {
        let follow = |branch: Branch| steps.iter().fold(branch, |branch, step| branch.followed_by(step.clone()));
        Ok(self.branches(input)?.into_iter().map(follow).collect())
    }

    fn scan(&self, scan: &TableScan) -> Result<Vec<Branch>, Fault> {
        let name = scan.table_name.table();
        let Some(input) = self.inputs.iter().position(|(input, _)| *input == name) else {
            return Err(unsupported(&format!("reading {name}")));
        };
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return Err(unsupported("a condition within the reading of an input"));
        }
        let steps = scan.projection.iter().map(|columns| Step::Select(columns.as_slice().into())).collect();
        Ok(vec![Branch { input, steps }])
    }

    pub(super) fn project(&self, projection: &Projection) -> Result<Step, Fault> {
        let from = projection.input.schema();
        let expressions = projection.expr.iter().map(|expr| self.physical(expr, from)).collect::<Result<_, _>>()?;
        Ok(Step::Project(Project { expressions, schema: arrow_schema(&projection.schema) }))
    }

    /// One step a group of conditions: each that can fail begins a new one, so that it is evaluated only on rows that hold
    /// the conditions before it.
    pub(super) fn filter(&self, filter: &Filter) -> Result<Vec<Step>, Fault> {
        let mut groups: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for condition in split_conjunction(&filter.predicate) {
            let condition = self.physical(condition, filter.input.schema())?;
            match groups.pop() {
                Some(group) if cannot_fail(&condition) => groups.push(binary(group, Operator::And, condition)),
                group => groups.extend(group.into_iter().chain([condition])),
            }
        }
        Ok(groups.into_iter().map(Step::Filter).collect())
    }

    pub(super) fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, Fault> {
        let context = PhysicalPlanningContext::default();
        let expr = create_physical_expr(expr, schema, self.state.execution_props(), &context);
        let guarded = expr.and_then(|expr| expr.transform_up(guard));
        guarded.map(|guarded| guarded.data).map_err(|error| fault::of_whole(&error))
    }
}

/// Lets `a AND b` evaluate `b` only on rows where `a` does not decide alone, and `a OR b` likewise, where `b` can fail.
/// DataFusion does so for whole batches only, so that what becomes of a row would be found out one row at a time.
fn guard(expr: Arc<dyn PhysicalExpr>) -> datafusion::common::Result<Transformed<Arc<dyn PhysicalExpr>>> {
    let Some(both) = expr.downcast_ref::<BinaryExpr>() else {
        return Ok(Transformed::no(expr));
    };
    let (decided, answer) = match both.op() {
        Operator::And => (binary(Arc::clone(both.left()), Operator::Eq, lit(false)), lit(false)),
        Operator::Or => (Arc::clone(both.left()), lit(true)),
        _ => return Ok(Transformed::no(expr)),
    };
    if cannot_fail(both.right()) {
        return Ok(Transformed::no(expr));
    }
    let case = CaseExpr::try_new(None, vec![(decided, answer)], Some(Arc::clone(&expr)))?;
    Ok(Transformed::yes(Arc::new(case)))
}

fn binary(left: Arc<dyn PhysicalExpr>, operator: Operator, right: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
    Arc::new(BinaryExpr::new(left, operator, right))
}

/// Whether the expression has a value for every row: comparisons of columns and constants, and what joins them.
pub(super) fn cannot_fail(expr: &Arc<dyn PhysicalExpr>) -> bool {
    use Operator::{And, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq, Or};
    let safe = |operator: &Operator| {
        matches!(operator, And | Or | Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
    };
    let itself = expr.is::<Column>()
        || expr.is::<Literal>()
        || expr.is::<NotExpr>()
        || expr.is::<IsNullExpr>()
        || expr.is::<IsNotNullExpr>()
        || expr.is::<InListExpr>()
        || expr.is::<LikeExpr>()
        || expr.downcast_ref::<BinaryExpr>().is_some_and(|both| safe(both.op()));
    itself && expr.children().into_iter().all(cannot_fail)
}

pub(super) fn unnest(node: &Unnest) -> Step {
    let lists = node
        .list_type_columns
        .iter()
        .map(|(index, list)| ListUnnest { index_in_input_schema: *index, depth: list.depth });
    Step::Unnest(operator::Unnest {
        lists: lists.collect(),
        structs: node.struct_type_columns.clone(),
        options: node.options.clone(),
        schema: arrow_schema(&node.schema),
    })
}

pub(super) fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().clone()))
}

fn unsupported(what: &str) -> Fault {
    Fault { message: format!("this cannot be evaluated row by row: {what}"), span: None, help: None }
}
