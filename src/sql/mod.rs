//! SQL to operators: what a query means over a stream, and what it cannot mean yet. How batches are processed lives in
//! `operator`.

use std::ops::Range;

use arrow::datatypes::{DataType, SchemaRef};

use crate::operator::Operator;

/// What is wrong with an SQL text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where in the text, in bytes; `None` if it is about the whole of it.
    pub span: Option<Range<usize>>,
    /// What to do about it, such as the nearest name that exists.
    pub help: Option<String>,
}

/// The SQL dialect with every function a pipeline can use.
pub struct Engine;

/// A query over the inputs of a stage, checked and planned.
pub struct Query {
    /// The schema of its rows.
    pub schema: SchemaRef,
}

impl Engine {
    /// The functions of DataFusion and for JSON in text.
    pub fn new() -> Self {
        todo!()
    }

    /// Adds a function to those that queries can use.
    pub fn register(&mut self, function: datafusion::logical_expr::ScalarUDF) {
        let _ = function;
        todo!()
    }

    /// The Arrow type of an SQL type such as `text not null`, and whether it can be null.
    pub fn data_type(&self, sql_type: &str) -> Result<(DataType, bool), Fault> {
        let _ = sql_type;
        todo!()
    }

    /// Plans a query over inputs, each a table of that name.
    pub fn plan(&self, sql: &str, inputs: &[(&str, SchemaRef)]) -> Result<Query, Vec<Fault>> {
        let _ = (sql, inputs);
        todo!()
    }
}

impl Query {
    /// The same query, its results brought to a contract: columns by name, cast to the contract's types; a row that
    /// cannot be cast or is null where it must not be is a reject.
    pub fn under_contract(self, contract: &SchemaRef) -> Result<Query, Vec<Fault>> {
        let _ = contract;
        todo!()
    }

    /// An operator that answers the query, batch by batch.
    pub fn operator(&self) -> Box<dyn Operator> {
        todo!()
    }
}
