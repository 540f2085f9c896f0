//! The results of a query brought to a contract: which column becomes which, and whether it can at all.

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, SchemaRef};

use super::{Fault, fault, types};
use crate::failure::Class;
use crate::operator::{Conform, Step};

/// The step that makes rows of the contract out of rows of the query.
pub(super) fn step(query: &SchemaRef, contract: &SchemaRef) -> Result<Step, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut columns = Vec::with_capacity(contract.fields().len());
    for field in contract.fields() {
        match query.column_with_name(field.name()) {
            Some((index, from)) => {
                columns.push(index);
                faults.extend(uncastable(field.name(), from.data_type(), field.data_type()));
            }
            None => faults.push(missing(field.name(), query)),
        }
    }
    for field in query.fields().iter().filter(|field| contract.column_with_name(field.name()).is_none()) {
        faults.push(Fault {
            message: format!("the query yields a column `{}` that the schema does not have", field.name()),
            span: None,
            help: Some("add it to the schema, or leave it out of the query".into()),
        });
    }
    if faults.is_empty() { Ok(Step::Conform(Conform::new(columns, contract, Class::Contract))) } else { Err(faults) }
}

fn missing(name: &str, query: &SchemaRef) -> Fault {
    let near = fault::nearest(name, query.fields().iter().map(|field| field.name().as_str()));
    Fault {
        message: format!("the schema has a column `{name}` that the query does not yield"),
        span: None,
        help: near.map(|near| format!("the query yields `{near}`")),
    }
}

fn uncastable(name: &str, from: &DataType, to: &DataType) -> Option<Fault> {
    let (from_name, to_name) = (types::name(from), types::name(to));
    let message = format!("column `{name}` is {from_name} in the query and {to_name} in the schema");
    if !can_cast_types(from, to) {
        return Some(Fault { message, span: None, help: Some("they cannot be cast; change one of them".into()) });
    }
    loses_unseen(from, to).then(|| Fault {
        message,
        span: None,
        help: Some(format!("a part of the value would be lost unseen; if it may be, write CAST(… AS {to_name})")),
    })
}

/// Whether a cast that succeeds can yield another value than it was given.
fn loses_unseen(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Date64, Decimal32, Decimal64, Decimal128, Decimal256, Timestamp};
    let scale = |data_type: &DataType| match data_type {
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => Some(*scale),
        other => other.is_integer().then_some(0),
    };
    match (from, to) {
        (from, to) if from.is_floating() => to.is_integer(),
        (Timestamp(..), Date32 | Date64) => true,
        (Timestamp(from, _), Timestamp(to, _)) => to < from,
        (from, to) => matches!((scale(from), scale(to)), (Some(from), Some(to)) if to < from),
    }
}
