//! The first rows of each group, as window functions number them: `row_number() … <= n`.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Expr, Filter, LogicalPlan, Operator, Projection, SubqueryAlias, Window, binary_expr, lit,
};

use super::{column, parts};

/// Whether a condition leaves the first rows of each group only, as a window function numbers them.
pub(super) fn counts(window: &Window, condition: &Expr) -> bool {
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
pub(super) fn is_of_first(window: &Window, condition: &Expr) -> bool {
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
pub(super) fn firsts(filter: &Filter) -> Option<datafusion::common::Result<LogicalPlan>> {
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
pub(super) fn window_identity(window: &Window, by: &[Expr]) -> Option<Vec<BTreeSet<usize>>> {
    let of_rows = window.input.schema().fields().len();
    let number = window.window_expr.iter().position(is_row_number)?;
    let mut columns: Vec<usize> = by.iter().map(|expr| column(expr, window.input.schema())).collect::<Option<_>>()?;
    columns.push(of_rows + number);
    Some(parts(columns))
}
