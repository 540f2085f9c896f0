//! Aggregates of rows that are taken away as well. Each row counts as often as it is there, once more or once less: so counts,
//! sums and means are sums of what each row weighs, of which it does not matter in which order they come.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, Result, internal_err};
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, TableScan, cast, col, lit, when,
};

use super::super::Fault;
use super::super::branches::{Planner, arrow_schema};
use super::super::windowed::{physical, placeholder};
use super::{cut, whole};
use crate::operator::AggregatePlan;

/// The column with what a row weighs.
const WEIGHT: &str = "__weight";
/// The sum of these.
const ROWS: &str = "__rows";

/// The aggregate of rows that are taken away as well; `None` where it is of another kind.
pub(super) fn of(
    aggregate: &Aggregate,
    planner: &Planner<'_>,
    time: Option<usize>,
) -> Result<Option<AggregatePlan>, Fault> {
    let Some((sums, results)) = rewritten(aggregate).map_err(whole)? else { return Ok(None) };
    let input = Arc::new(scan(aggregate).map_err(whole)?);
    let over = Aggregate::try_new(input, aggregate.group_expr.clone(), sums).map_err(whole)?;
    let over = LogicalPlan::Aggregate(over);
    let Some((partial, last)) = cut(physical(&over, planner.state).map_err(whole)?).map_err(whole)? else {
        return Ok(None);
    };
    let keys = aggregate.group_expr.len();
    let groups = over.schema().iter().take(keys).map(Expr::from);
    let exprs: Vec<Expr> = groups.chain(results).collect();
    let schema = Arc::clone(&aggregate.schema);
    let projection = Projection::try_new_with_schema(exprs, Arc::new(over), schema).map_err(whole)?;
    let step = planner.project(&projection)?;
    Ok(Some(AggregatePlan {
        rows: arrow_schema(aggregate.input.schema()),
        weighed: true,
        partial,
        last,
        keys,
        weight: Some((keys, vec![step])),
        time,
        stays: false,
    }))
}

/// The sums of what rows weigh, and what is made of them.
fn rewritten(aggregate: &Aggregate) -> Result<Option<(Vec<Expr>, Vec<Expr>)>> {
    let weight = || col(WEIGHT);
    let mut sums = vec![sum(weight()).alias(ROWS)];
    let mut results = Vec::new();
    for (number, expr) in aggregate.aggr_expr.iter().enumerate() {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias() else {
            return Ok(None);
        };
        if params.distinct || !params.order_by.is_empty() || params.null_treatment.is_some() {
            return Ok(None);
        }
        let mut counts = params.args.iter().map(|arg| arg.clone().is_not_null()).reduce(Expr::and).unwrap_or(lit(true));
        if let Some(filter) = &params.filter {
            counts = counts.and(filter.as_ref().clone().is_true());
        }
        let (count, total) = (format!("__count_{number}"), format!("__sum_{number}"));
        sums.push(sum(when(counts.clone(), weight()).end()?).alias(&count));
        let is_any = || col(&count).gt(lit(0i64));
        match (func.name(), params.args.as_slice()) {
            ("count", _) => results.push(when(is_any(), col(&count)).otherwise(lit(0i64))?),
            ("sum" | "avg", [value]) => {
                let data_type = value.get_type(aggregate.input.schema())?;
                let is_signed = matches!(data_type, DataType::Int64 | DataType::Float64)
                    || (func.name() == "sum"
                        && matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..)));
                if !is_signed || (func.name() == "avg" && data_type != DataType::Float64) {
                    return Ok(None);
                }
                let signed =
                    when(weight().lt(lit(0i64)), Expr::Negative(Box::new(value.clone()))).otherwise(value.clone())?;
                sums.push(sum(when(counts, signed).end()?).alias(&total));
                let result = match func.name() {
                    "sum" => col(&total),
                    _ => col(&total) / cast(col(&count), DataType::Float64),
                };
                results.push(when(is_any(), result).end()?);
            }
            _ => return Ok(None),
        }
    }
    Ok(Some((sums, results)))
}

/// The rows with what each of them weighs.
fn scan(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let input = aggregate.input.schema();
    let weight = Arc::new(Field::new(WEIGHT, DataType::Int64, false));
    let LogicalPlan::TableScan(scan) = placeholder(0, &aggregate.input)? else {
        return internal_err!("a placeholder is a scan");
    };
    let columns = input.iter().map(|(of, field)| (of.cloned(), Arc::clone(field)));
    let columns = columns.chain([(None, weight)]).collect();
    let schema = DFSchema::new_with_metadata(columns, Default::default())?;
    Ok(LogicalPlan::TableScan(TableScan { projected_schema: Arc::new(schema), ..scan }))
}
