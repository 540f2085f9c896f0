//! Panes in place of windows that slide: the stretches of time between the bounds of all windows. A row is in one of them, where
//! it would be in many windows.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Projection, Unnest, lit};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::aggregates::AggregateExec;

use super::super::windows::{self, Bound};
use crate::operator::Spacing;

/// Whether an aggregate does nothing else with the columns of windows than group by them.
pub(super) fn only_groups(aggregate: &AggregateExec, of_windows: &[usize]) -> bool {
    let uses = |expr: &Arc<dyn datafusion::physical_expr::PhysicalExpr>| {
        collect_columns(expr).iter().any(|column| of_windows.contains(&column.index()))
    };
    let groups = aggregate.group_expr().expr().iter().all(|(expr, _)| expr.is::<Column>() || !uses(expr));
    let aggregates = aggregate.aggr_expr().iter().all(|expr| {
        let all = expr.all_expressions();
        !all.args.iter().chain(&all.order_by_exprs).any(uses)
    });
    let filters = aggregate.filter_expr().iter().flatten().all(|expr| !uses(expr));
    groups && aggregates && filters
}

/// The plan of rows that are in windows like these, as one of rows that are in panes, with the starts of panes in place of those
/// of windows; `None` where it does more with windows than pass them on.
pub(super) fn instead_of_windows(plan: LogicalPlan, of: Spacing) -> Result<Option<LogicalPlan>> {
    if !passes_on(&plan)? {
        return Ok(None);
    }
    let mut found = 0;
    let plan = plan.transform_up(|node| {
        let node = match node {
            LogicalPlan::Unnest(unnest) => without_list(unnest)?,
            node => node,
        };
        let node = node.map_expressions(|expr| {
            let name = expr.schema_name().to_string();
            let replaced = expr.transform_up(|expr| one_pane(expr, of, &mut found))?;
            // What is above calls it by its name.
            Ok(if replaced.transformed && replaced.data.schema_name().to_string() != name {
                Transformed::yes(replaced.data.alias(name))
            } else {
                replaced
            })
        })?;
        Ok(Transformed::yes(node.data.recompute_schema()?))
    })?;
    Ok((found == 1).then_some(plan.data))
}

/// Whether all that a plan does with windows is to make them and to pass them on.
fn passes_on(plan: &LogicalPlan) -> Result<bool> {
    let (mut passes, mut lists) = (true, 0);
    plan.apply(|node| {
        passes &= match node {
            // In a union, rows of other windows could come together.
            LogicalPlan::Union(_) => false,
            LogicalPlan::Unnest(unnest) => {
                lists += unnest.list_type_columns.len();
                unnest.struct_type_columns.is_empty()
            }
            _ => true,
        };
        let inputs = node.inputs();
        for expr in node.expressions() {
            let expr = expr.unalias();
            let makes = matches!(&expr, Expr::ScalarFunction(call) if windows::are_bounds(&call.func));
            if makes || matches!(expr, Expr::Column(_)) {
                continue;
            }
            for column in expr.column_refs() {
                let of_column = |input: &&LogicalPlan| Expr::Column(column.clone()).to_field(input.schema()).ok();
                let is_bound = |(_, field): (_, datafusion::arrow::datatypes::FieldRef)| Bound::of(&field).is_some();
                passes &= !inputs.iter().filter_map(of_column).any(is_bound);
            }
            expr.apply(|inner| {
                passes &= !matches!(inner, Expr::ScalarFunction(call) if windows::are_bounds(&call.func));
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    // That of the windows, and none of a query.
    Ok(passes && lists == 1)
}

/// Of a call that gives the windows of a time, one that gives its pane.
fn one_pane(expr: Expr, of: Spacing, found: &mut u32) -> Result<Transformed<Expr>> {
    let Expr::ScalarFunction(call) = &expr else { return Ok(Transformed::no(expr)) };
    if !windows::are_several(&call.func) {
        return Ok(Transformed::no(expr));
    }
    let (Some(time), Some(one)) = (call.args.first(), windows::of_one()) else { return Ok(Transformed::no(expr)) };
    *found += 1;
    let constant = |nanos: i64| lit(ScalarValue::Int64(Some(nanos)));
    let args = vec![time.clone(), constant(of.pane()), constant(of.offset)];
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(one), args))))
}

/// The columns of a list's elements, where there is one in place of the list.
fn without_list(unnest: Unnest) -> Result<LogicalPlan> {
    let input = unnest.input.schema();
    let column = |(output, from): (usize, &usize)| {
        let (qualifier, field) = unnest.schema.qualified_field(output);
        let from = Expr::Column(input.columns().get(*from).cloned().ok_or_else(missing)?);
        Ok(from.alias_qualified(qualifier.cloned(), field.name()))
    };
    let columns = unnest.dependency_indices.iter().enumerate().map(column).collect::<Result<_>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(columns, unnest.input)?))
}

fn missing() -> DataFusionError {
    DataFusionError::Plan("a column of a list is missing".into())
}
