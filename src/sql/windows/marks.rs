//! Where columns stop to be those of windows: a cast makes other values of them, as a function does, and in a union they can be of other windows, or of
//! none, from one row to the next. DataFusion keeps what a column says of itself in both.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, Projection, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Union, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::utils::NamePreserver;

use super::bounds::{forgotten, is_marked, marks};

/// Lets columns say no more that they are of windows where they are no longer. Runs after the types of operands are settled.
#[derive(Debug)]
pub(in crate::sql) struct ForgetMarks;

impl AnalyzerRule for ForgetMarks {
    fn name(&self) -> &str {
        "forget_marks_of_windows"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            // In windows of windows, rows are of the outer ones.
            let begins = plan.expressions().iter().any(super::are_begun_in);
            let plan = plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let of_marked = |expr: &Expr| expr.to_field(&schema).is_ok_and(|(_, field)| is_marked(&field));
                let rewritten = expr.transform_up(|expr| {
                    let is_other = match &expr {
                        Expr::Cast(cast) => of_marked(&cast.expr),
                        Expr::TryCast(cast) => of_marked(&cast.expr),
                        // One such as arrow_cast is a cast later on.
                        Expr::ScalarFunction(call) if super::function(call.func.name()).is_none() => {
                            call.args.iter().chain([&expr]).any(of_marked)
                        }
                        _ => false,
                    };
                    Ok(if is_other { Transformed::yes(forget(expr)) } else { Transformed::no(expr) })
                })?;
                let rewritten = match rewritten {
                    whole if begins && of_marked(&whole.data) => Transformed::yes(forget(whole.data)),
                    part => part,
                };
                Ok(rewritten.update_data(|expr| name.restore(expr)))
            })?;
            match plan.data.recompute_schema()? {
                LogicalPlan::Union(union) => Ok(Transformed::yes(of_all(union)?)),
                plan => Ok(Transformed::yes(plan)),
            }
        })?;
        Ok(rewritten.data)
    }
}

/// A union whose columns say of themselves what those of all its inputs do.
fn of_all(union: Union) -> Result<LogicalPlan> {
    let fields = union.schema.fields();
    let differs = |index: usize, field: &FieldRef| {
        is_marked(field)
            && union
                .inputs
                .iter()
                .any(|input| input.schema().fields().get(index).is_none_or(|of| marks(of) != marks(field)))
    };
    let differ: Vec<bool> = fields.iter().enumerate().map(|(index, field)| differs(index, field)).collect();
    if !differ.contains(&true) {
        return Ok(LogicalPlan::Union(union));
    }
    let columns = union.schema.iter().zip(differ).map(|((qualifier, field), differs)| {
        let column = Expr::from((qualifier, field));
        if differs { forget(column).alias_qualified(qualifier.cloned(), field.name()) } else { column }
    });
    let columns = columns.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(LogicalPlan::Union(union)))?))
}

fn forget(expr: Expr) -> Expr {
    let signature = Signature::any(1, Volatility::Immutable);
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(Forget { signature })), vec![expr]))
}

/// A value, of which it is not said any more that it is of a window.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Forget {
    signature: Signature,
}

impl ScalarUDFImpl for Forget {
    fn name(&self) -> &str {
        "window forgotten"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().map_or_else(|| plan_err!("a value is forgotten"), Ok)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let Some(field) = args.arg_fields.first() else { return plan_err!("a value is forgotten") };
        Ok(forgotten(field))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        args.args.into_iter().next().map_or_else(|| exec_err!("a value is forgotten"), Ok)
    }
}
