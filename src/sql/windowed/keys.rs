//! What tells whose session a row is in, where the query has left it out.

use std::sync::Arc;

use datafusion::common::{Result, internal_datafusion_err};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, SubqueryAlias};

use super::super::windows::{self, Bound};
use crate::operator::Kind;

/// Rows that are evaluated one by one, with all columns that the rows of their session share: those that are left out come
/// behind the others.
pub(super) fn with_all(rows: LogicalPlan) -> Result<LogicalPlan> {
    let fields = rows.schema().fields();
    let shared = fields.iter().filter_map(|field| windows::shared(field)).count();
    let is_wanting = |bound: Bound| matches!(bound.of, Kind::Sessions { keys, .. } if shared < keys);
    if fields.iter().filter_map(|field| Bound::of(field)).any(is_wanting) { with_keys(rows) } else { Ok(rows) }
}

fn with_keys(rows: LogicalPlan) -> Result<LogicalPlan> {
    let nowhere = || internal_datafusion_err!("it is not seen where rows are put into sessions");
    match rows {
        LogicalPlan::Projection(Projection { mut expr, input, .. }) => {
            let call = |expr: &Expr| match expr.clone().unalias() {
                Expr::ScalarFunction(call) => windows::keys_of_session(&call),
                _ => None,
            };
            let (keys, input) = match expr.iter().find_map(call) {
                Some(keys) => (keys, input),
                None => {
                    let (before, input) = (input.schema().fields().len(), with_keys(Arc::unwrap_or_clone(input))?);
                    (input.schema().iter().skip(before).map(Expr::from).collect(), Arc::new(input))
                }
            };
            expr.extend(keys);
            Ok(LogicalPlan::Projection(Projection::try_new(expr, input)?))
        }
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias, .. }) => {
            let input = with_keys(Arc::unwrap_or_clone(input))?;
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias)?))
        }
        _ => Err(nowhere()),
    }
}
