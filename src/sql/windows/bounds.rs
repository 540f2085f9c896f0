//! The bounds of the window that a row is in, which stay recognisable: the columns say of what windows they are, wherever a
//! query passes them on unchanged.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::codec::time;
use crate::operator::Spacing;

/// Of the start of a window, the slide of the windows, their size and their offset, in nanoseconds.
pub(super) const START: &str = "window bound start";
/// The same.
pub(super) const END: &str = "window bound end";

/// The functions of both bounds. They have names that nobody writes by chance.
pub(super) static FUNCTIONS: LazyLock<[Arc<ScalarUDF>; 2]> = LazyLock::new(|| {
    [(START, false), (END, true)].map(|(name, is_end)| {
        let signature = Signature::any(4, Volatility::Immutable);
        Arc::new(ScalarUDF::from(Bounds { name, is_end, signature }))
    })
});

/// What the metadata of a column with a bound are named.
const KEY: &str = "fidelio.window";

/// What a column holds that has a bound of the window that its row is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sql) struct Bound {
    /// Whether it is the end of the window and not its start.
    pub(in crate::sql) is_end: bool,
    /// The windows.
    pub(in crate::sql) spacing: Spacing,
}

impl Bound {
    /// What the column holds, if it is a bound as it was made: other than null, and of another type, it would be another value.
    pub(in crate::sql) fn of(field: &Field) -> Option<Self> {
        let text = field.metadata().get(KEY)?;
        let mut parts = text.split(' ');
        let data_type = parts.next_back()?;
        let mut number = || parts.next()?.parse::<i64>().ok();
        let is_end = number()? == 1;
        let spacing = Spacing { slide: number()?, size: number()?, offset: number()? };
        let unchanged = !field.is_nullable() && field.data_type().to_string().replace(' ', "") == data_type;
        unchanged.then_some(Self { is_end, spacing })
    }

    fn metadata(self, data_type: &DataType) -> HashMap<String, String> {
        let Self { is_end, spacing: Spacing { slide, size, offset } } = self;
        let data_type = data_type.to_string().replace(' ', "");
        HashMap::from([(KEY.to_owned(), format!("{} {slide} {size} {offset} {data_type}", i32::from(is_end)))])
    }

    /// From the bound to the end of the window, in nanoseconds.
    pub(in crate::sql) fn to_end(self) -> i64 {
        if self.is_end { 0 } else { self.spacing.size }
    }
}

/// The field without what it says of windows.
pub(in crate::sql) fn forgotten(field: &FieldRef) -> FieldRef {
    if !field.metadata().contains_key(KEY) {
        return Arc::clone(field);
    }
    let mut metadata = field.metadata().clone();
    metadata.remove(KEY);
    Arc::new(field.as_ref().clone().with_metadata(metadata))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounds {
    name: &'static str,
    is_end: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Bounds {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("what it yields depends on its arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let constant = |index: usize| match args.scalar_arguments.get(index) {
            Some(Some(ScalarValue::Int64(Some(nanos)))) => Ok(*nanos),
            _ => plan_err!("the size of windows is a constant"),
        };
        let spacing = Spacing { slide: constant(1)?, size: constant(2)?, offset: constant(3)? };
        let bound = Bound { is_end: self.is_end, spacing };
        let Some(start) = args.arg_fields.first() else { return plan_err!("a window starts somewhere") };
        let metadata = bound.metadata(start.data_type());
        Ok(Arc::new(Field::new(self.name, start.data_type().clone(), false).with_metadata(metadata)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (Some(start), Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(size))))) =
            (args.args.first(), args.args.get(2))
        else {
            return exec_err!("the size of windows is a constant");
        };
        match self.is_end {
            false => Ok(start.clone()),
            true => Ok(ColumnarValue::Array(ends(start.to_array(args.number_rows)?, *size)?)),
        }
    }
}

fn ends(starts: ArrayRef, size: i64) -> Result<ArrayRef> {
    let size = size / time::tick(starts.data_type()).unwrap_or(1);
    let numbers = cast(&starts, &DataType::Int64)?;
    let too_late = || exec_datafusion_err!("the window ends later than a timestamp can be");
    let ends = numbers
        .as_primitive::<Int64Type>()
        .try_unary::<_, Int64Type, _>(|start| start.checked_add(size).ok_or_else(too_late));
    Ok(cast(&ends?, starts.data_type())?)
}
