//! Until when a row can still have a partner: what the condition of a join says of the event times of both.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, IntervalMonthDayNano};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, ExprSchemable, Operator, binary_expr};

use crate::operator::Sides;

/// For the rows of each side the event time of the latest partner that they can have, where the condition bounds it. `times` has
/// the columns of each side with event times.
pub(super) fn of(
    filters: &[Expr],
    on: &[(Expr, Expr)],
    schemas: Sides<&DFSchema>,
    times: Sides<&BTreeSet<usize>>,
) -> Sides<Option<Expr>> {
    let mut ordered: Vec<(Expr, Expr)> = Vec::new();
    for filter in filters {
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::Lt | Operator::LtEq => ordered.push((*left.clone(), *right.clone())),
                Operator::Gt | Operator::GtEq => ordered.push((*right.clone(), *left.clone())),
                Operator::Eq => {
                    ordered.push((*left.clone(), *right.clone()));
                    ordered.push((*right.clone(), *left.clone()));
                }
                _ => {}
            },
            Expr::Between(Between { expr, negated: false, low, high }) => {
                ordered.push((*low.clone(), *expr.clone()));
                ordered.push((*expr.clone(), *high.clone()));
            }
            _ => {}
        }
    }
    for (left, right) in on {
        ordered.push((left.clone(), right.clone()));
        ordered.push((right.clone(), left.clone()));
    }
    let mut found = Sides(None, None);
    for (earlier, later) in ordered {
        for side in [0, 1] {
            // A partner is earlier than something that the row itself says.
            let of = Sides(*schemas.of(1 - side), *schemas.of(side));
            let Some(until) = latest(&earlier, &later, of, times.of(1 - side)) else { continue };
            let is_time = matches!(until.get_type(*schemas.of(side)), Ok(DataType::Timestamp(..)));
            if is_time && found.of(side).is_none() {
                *found.of_mut(side) = Some(until);
            }
        }
    }
    found
}

/// The latest time of a row of the first schema, which is not later than that expression over the second one.
fn latest(earlier: &Expr, later: &Expr, schemas: Sides<&DFSchema>, times: &BTreeSet<usize>) -> Option<Expr> {
    let is_over = |expr: &Expr, schema: &DFSchema| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|column| schema.has_column(column))
    };
    if !is_over(later, schemas.1) || !is_over(earlier, schemas.0) {
        return None;
    }
    let is_time = |expr: &Expr| match uncast(expr) {
        Expr::Column(column) => schemas.0.maybe_index_of_column(column).is_some_and(|column| times.contains(&column)),
        _ => false,
    };
    if is_time(earlier) {
        return Some(later.clone());
    }
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = uncast(earlier) else { return None };
    let inverse = match op {
        Operator::Plus => Operator::Minus,
        Operator::Minus => Operator::Plus,
        _ => return None,
    };
    (is_time(left) && is_span(right)).then(|| binary_expr(later.clone(), inverse, *right.clone()))
}

/// Timestamps of another unit are in the same order.
fn uncast(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) if matches!(cast.field.data_type(), DataType::Timestamp(..)) => uncast(&cast.expr),
        expr => expr,
    }
}

/// Whether it is always as long.
fn is_span(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, .. })), _) => *months == 0,
        Expr::Literal(ScalarValue::IntervalDayTime(Some(_)), _) => true,
        _ => false,
    }
}
