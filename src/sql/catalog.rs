//! What a query can name: the inputs of its stage as tables, and the engine's functions. Nothing else exists for it, no
//! file, no variable, no table function.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};

use super::windows;

/// A query reads something that is not there.
#[derive(Debug, thiserror::Error)]
#[error("there is no input `{0}`")]
pub(super) struct UnknownInput(pub(super) String);

pub(super) struct Catalog<'a> {
    state: &'a SessionState,
    tables: HashMap<String, Arc<dyn TableSource>>,
}

impl<'a> Catalog<'a> {
    pub(super) fn new(state: &'a SessionState, inputs: &[(&str, SchemaRef)]) -> Self {
        let table = |schema: &SchemaRef| Arc::new(LogicalTableSource::new(Arc::clone(schema))) as Arc<dyn TableSource>;
        let tables = inputs.iter().map(|(name, schema)| ((*name).to_owned(), table(schema))).collect();
        Self { state, tables }
    }

    /// The names of the inputs, in alphabetical order.
    pub(super) fn inputs(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tables.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The names of the functions that a row-by-row query can call, in alphabetical order.
    pub(super) fn functions(&self) -> Vec<&str> {
        let scalar = self.state.scalar_functions().keys();
        let mut names: Vec<&str> =
            scalar.chain(self.state.higher_order_functions().keys()).map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

impl ContextProvider for Catalog<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>, DataFusionError> {
        match &name {
            TableReference::Bare { table } => self.tables.get(&**table).cloned(),
            _ => None,
        }
        .ok_or_else(|| DataFusionError::External(Box::new(UnknownInput(name.to_string()))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).or_else(|| windows::function(name)).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions().into_iter().map(str::to_owned).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
