//! The first steps of aggregates, which are taken for each batch as it comes: what is kept is what they give.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::projection::ProjectionExec;

use super::super::windows;
use super::panes::only_groups;
use super::{bounds, groups, place};
use crate::operator::{Kind, Leaf, LeafExec, Partial};

/// The columns with the bounds of what rows of a session were added up to.
const PART_START: &str = "start";
const PART_END: &str = "end";

/// Takes the first steps of aggregates right over leaves out of the plan and into these.
pub(super) fn add_up(plan: Arc<dyn ExecutionPlan>, leaves: &mut [Leaf]) -> Result<Arc<dyn ExecutionPlan>> {
    let rest = plan.transform_down(|node| {
        let Some(partial) = node.downcast_ref::<AggregateExec>().filter(|it| *it.mode() == AggregateMode::Partial)
        else {
            return Ok(Transformed::no(node));
        };
        let Some(under) = partial.input().downcast_ref::<LeafExec>() else { return Ok(Transformed::no(node)) };
        let Some(leaf) = leaves.get_mut(under.number) else { return Ok(Transformed::no(node)) };
        let kept = match leaf.windows {
            Kind::Spaced(_) => by_windows(partial, under.number),
            Kind::Sessions { .. } => by_sessions(partial, under.number, leaf)?,
        };
        Ok(match kept {
            Some((kept, rest)) => {
                leaf.computed = crc32c::crc32c_append(leaf.computed, added_up(partial).as_bytes());
                leaf.partial = Some(kept);
                Transformed::new(rest, true, TreeNodeRecursion::Jump)
            }
            None => Transformed::no(node),
        })
    });
    rest.data()
}

/// What of an aggregate tells what its first step keeps of rows.
fn added_up(partial: &AggregateExec) -> String {
    let of = |(aggregate, filter): (&Arc<AggregateFunctionExpr>, &Option<Arc<dyn PhysicalExpr>>)| {
        let arguments: Vec<String> = aggregate.expressions().iter().map(|expr| expr.to_string()).collect();
        let filter = filter.as_ref().map(|filter| format!(" where {filter}")).unwrap_or_default();
        format!("{}({}){filter}", aggregate.fun().name(), arguments.join(", "))
    };
    partial.aggr_expr().iter().zip(partial.filter_expr()).map(of).collect::<Vec<_>>().join(", ")
}

/// What adds up rows by their windows, and the leaf of what it gives.
fn by_windows(partial: &AggregateExec, number: usize) -> Option<(Partial, Arc<dyn ExecutionPlan>)> {
    let (schema, bounds) = (partial.schema(), groups(partial));
    let place = place(&schema, &bounds)?;
    let bounds = bounds.iter().map(|(column, bound)| (*column, bound.is_end)).collect();
    let state = Arc::new(LeafExec::new(number, &schema, Vec::new()));
    Some((Partial { aggregate: Arc::new(partial.clone()), place, bounds }, state))
}

/// What adds up rows by the parts of sessions that they are in, whose bounds are two groups more, and what takes these away again;
/// `None` where it is not known afterwards whose sessions they are, or more is done with their bounds than that rows are grouped by
/// them.
fn by_sessions(
    partial: &AggregateExec,
    number: usize,
    leaf: &Leaf,
) -> Result<Option<(Partial, Arc<dyn ExecutionPlan>)>> {
    let of_rows: Vec<usize> = bounds(leaf.rows.fields()).iter().map(|(column, _)| *column).collect();
    let schema = partial.schema();
    let by = partial.group_expr().expr();
    let keys = schema.fields().iter().take(by.len()).enumerate();
    let keys: BTreeMap<usize, usize> =
        keys.filter_map(|(column, field)| Some((windows::shared(field)?.0, column))).collect();
    let knows_keys = matches!(leaf.windows, Kind::Sessions { keys: all, .. } if all == keys.len());
    if !knows_keys || !only_groups(partial, &of_rows) {
        return Ok(None);
    }
    let bound = |name: &str| Arc::new(Field::new(name, DataType::Int64, false));
    let more = [bound(PART_START), bound(PART_END)];
    let input: SchemaRef = Arc::new(Schema::new(leaf.rows.fields().iter().cloned().chain(more).collect::<Vec<_>>()));
    let column = |index: usize, schema: &Schema| {
        let name = schema.field(index).name().clone();
        (Arc::new(Column::new(&name, index)) as Arc<dyn PhysicalExpr>, name)
    };
    let rows = leaf.rows.fields().len();
    let by_part = [rows, rows + 1].map(|index| column(index, &input));
    let aggregate = AggregateExec::try_new(
        AggregateMode::Partial,
        PhysicalGroupBy::new_single(by.iter().cloned().chain(by_part).collect()),
        partial.aggr_expr().to_vec(),
        partial.filter_expr().to_vec(),
        Arc::new(LeafExec::new(number, &input, Vec::new())),
        Arc::clone(&input),
    )?;
    let of_groups = groups(partial).iter().map(|(column, bound)| (*column, bound.is_end)).collect();
    let part = [by.len(), by.len() + 1];
    let Some(place) = leaf.place.part_of_session(part, keys.into_values().collect(), of_groups) else {
        return Ok(None);
    };
    let kept = aggregate.schema();
    let state = Arc::new(LeafExec::new(number, &kept, Vec::new()));
    let left = (0..kept.fields().len()).filter(|index| !part.contains(index)).map(|index| column(index, &kept));
    let rest = ProjectionExec::try_new(left.collect::<Vec<_>>(), state)?;
    Ok(Some((Partial { aggregate: Arc::new(aggregate), place, bounds: Vec::new() }, Arc::new(rest))))
}
