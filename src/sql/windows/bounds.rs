//! The bounds of the window that a row is in, which stay recognisable: the columns say of what windows they are, wherever a
//! query passes them on unchanged.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::codec::time;
use crate::operator::{Kind, Spacing};

/// Of the start of a window, the slide of the windows, their size and their offset, in nanoseconds.
pub(super) const START: &str = "window bound start";
/// The same.
pub(super) const END: &str = "window bound end";
/// Of the time of a row, the gap between sessions, in nanoseconds, the number of the call of `session` in the query, and the
/// columns that the rows of a session share.
pub(super) const SESSION_START: &str = "session bound start";
/// The same.
pub(super) const SESSION_END: &str = "session bound end";
/// Of a column that the rows of a session share, the number of the column among these, and the number of the call.
pub(super) const SESSION_KEY: &str = "session key";

/// How many arguments of a function that gives a bound of a session come before its columns.
pub(super) const BEFORE_KEYS: usize = 3;

/// The functions of bounds. They have names that nobody writes by chance.
pub(super) static FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let bounds = [
        (START, false, Signature::any(4, Volatility::Immutable)),
        (END, true, Signature::any(4, Volatility::Immutable)),
        (SESSION_START, false, Signature::variadic_any(Volatility::Immutable)),
        (SESSION_END, true, Signature::variadic_any(Volatility::Immutable)),
    ];
    let bounds = bounds.map(|(name, is_end, signature)| ScalarUDF::from(Bounds { name, is_end, signature }));
    let key = ScalarUDF::from(SessionKey { signature: Signature::any(3, Volatility::Immutable) });
    bounds.into_iter().chain([key]).map(Arc::new).collect()
});

/// What the metadata of a column with a bound are named.
const KEY: &str = "fidelio.window";
/// What the metadata of a column are named that the rows of a session share.
const SHARED: &str = "fidelio.session";

/// What a column holds that has a bound of the window that its row is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sql) struct Bound {
    /// Whether it is the end of the window and not its start.
    pub(in crate::sql) is_end: bool,
    /// The windows.
    pub(in crate::sql) of: Kind,
    /// The number of the call of `session` whose it is. Sessions of different calls that end at the same time are closed
    /// together, but those that start at the same time can end at different ones; so an end is of none.
    pub(in crate::sql) call: Option<i64>,
}

impl Bound {
    /// What the column holds, if it is a bound as it was made: other than null, and of another type, it would be another value.
    pub(in crate::sql) fn of(field: &Field) -> Option<Self> {
        let text = field.metadata().get(KEY)?;
        let mut parts = text.split(' ');
        let data_type = parts.next_back()?;
        let (kind, bound) = (parts.next()?, parts.next()?);
        let mut number = || parts.next()?.parse::<i64>().ok();
        let of = match kind {
            "spaced" => Kind::Spaced(Spacing { slide: number()?, size: number()?, offset: number()? }),
            _ => Kind::Sessions { gap: number()?, keys: number()? as usize },
        };
        let call = number();
        let unchanged = !field.is_nullable() && written(field.data_type()) == data_type;
        unchanged.then_some(Self { is_end: bound == "end", of, call })
    }

    fn metadata(self, data_type: &DataType) -> HashMap<String, String> {
        let bound = if self.is_end { "end" } else { "start" };
        let data_type = written(data_type);
        let text = match self.of {
            Kind::Spaced(Spacing { slide, size, offset }) => {
                format!("spaced {bound} {slide} {size} {offset} {data_type}")
            }
            Kind::Sessions { gap, keys } => {
                let call = self.call.filter(|_| !self.is_end).map(|call| format!("{call} ")).unwrap_or_default();
                format!("sessions {bound} {gap} {keys} {call}{data_type}")
            }
        };
        HashMap::from([(KEY.to_owned(), text)])
    }

    /// From the bound to the end of the window, in nanoseconds.
    pub(in crate::sql) fn to_end(self) -> i64 {
        if self.is_end { 0 } else { self.of.size() }
    }
}

/// The first of the columns that has the end of a window, or else its start, as it is.
pub(in crate::sql) fn bound(columns: &Fields) -> Option<usize> {
    let bounds: Vec<Option<Bound>> = columns.iter().map(|column| Bound::of(column)).collect();
    let first = |is_end| bounds.iter().position(|bound| bound.is_some_and(|bound| bound.is_end == is_end));
    first(true).or_else(|| first(false))
}

/// A type as one word.
fn written(data_type: &DataType) -> String {
    data_type.to_string().replace(' ', "")
}

/// Which of the columns it is that the rows of a session share, and the number of the call of `session`, if it is one as it was.
pub(in crate::sql) fn shared(field: &Field) -> Option<(usize, i64)> {
    let mut parts = field.metadata().get(SHARED)?.splitn(3, ' ');
    let (number, call) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (parts.next()? == written(field.data_type())).then_some((number, call))
}

/// What the field says of windows.
pub(super) fn marks(field: &Field) -> [Option<&String>; 2] {
    [KEY, SHARED].map(|key| field.metadata().get(key))
}

/// Whether it says anything of windows.
pub(in crate::sql) fn is_marked(field: &Field) -> bool {
    marks(field).iter().any(Option::is_some)
}

/// The field without what it says of windows.
pub(in crate::sql) fn forgotten(field: &FieldRef) -> FieldRef {
    if !is_marked(field) {
        return Arc::clone(field);
    }
    let mut metadata = field.metadata().clone();
    metadata.remove(KEY);
    metadata.remove(SHARED);
    Arc::new(field.as_ref().clone().with_metadata(metadata))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounds {
    name: &'static str,
    is_end: bool,
    signature: Signature,
}

impl Bounds {
    fn is_of_sessions(&self) -> bool {
        matches!(self.name, SESSION_START | SESSION_END)
    }
}

/// Marks a column that the rows of a session share.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SessionKey {
    signature: Signature,
}

impl ScalarUDFImpl for SessionKey {
    fn name(&self) -> &str {
        SESSION_KEY
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().map_or_else(|| plan_err!("a session is of a column"), Ok)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let (Some(field), Some([Some(number), Some(call)])) =
            (args.arg_fields.first(), args.scalar_arguments.get(1..3))
        else {
            return plan_err!("a session is of a column");
        };
        let metadata = HashMap::from([(SHARED.to_owned(), format!("{number} {call} {}", written(field.data_type())))]);
        Ok(Arc::new(Field::new(SESSION_KEY, field.data_type().clone(), field.is_nullable()).with_metadata(metadata)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        args.args.into_iter().next().map_or_else(|| exec_err!("a session is of a column"), Ok)
    }
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
        let (of, call) = match self.is_of_sessions() {
            true => {
                let keys = args.arg_fields.len().saturating_sub(BEFORE_KEYS);
                (Kind::Sessions { gap: constant(1)?, keys }, Some(constant(2)?))
            }
            false => (Kind::Spaced(Spacing { slide: constant(1)?, size: constant(2)?, offset: constant(3)? }), None),
        };
        let bound = Bound { is_end: self.is_end, of, call };
        let Some(start) = args.arg_fields.first() else { return plan_err!("a window starts somewhere") };
        if self.is_of_sessions() {
            super::starts::whole(start.data_type(), of.size())?;
        }
        let metadata = bound.metadata(start.data_type());
        Ok(Arc::new(Field::new(self.name, start.data_type().clone(), false).with_metadata(metadata)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (Some(start), Some(ColumnarValue::Scalar(ScalarValue::Int64(Some(size))))) =
            (args.args.first(), args.args.get(if self.is_of_sessions() { 1 } else { 2 }))
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
