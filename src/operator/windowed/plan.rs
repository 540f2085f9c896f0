//! What the evaluation of a query over windows consists of.

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use super::kept::Kept;
use super::place::{Kind, Place, Spacing};
use super::runs::Runs;
use super::sessions::{self, InSessions};
use crate::operator::sums::Sums;
use crate::operator::{Branch, Step, leaf};
use crate::sql;

/// How a query over windows is evaluated.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where rows come in.
    pub(crate) leaves: Vec<Leaf>,
    /// What makes results of the rows of windows that end at the same time, each leaf's as they are kept.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// The columns that it yields.
    pub(crate) columns: SchemaRef,
    /// The window of a row of these, where a column says it.
    pub(crate) place: Option<Place>,
    /// What is done to its rows one by one.
    pub(crate) above: Vec<Step>,
    /// Whether what the plan yields depends on the order of its rows, where it does not say which that is.
    pub(crate) chooses: bool,
    /// Whether results have an order that the query gives them.
    pub(crate) is_ordered: bool,
    /// What windows yield besides their results.
    pub(crate) also: Also,
    /// The columns of the results, but for those that say what they are.
    pub(crate) schema: SchemaRef,
}

/// What windows yield besides their results when they close. For each of these, results have a column more, which says whether
/// they are of that kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Also {
    /// What they would yield if they closed now, whenever they have had rows.
    pub early: bool,
    /// Their results once more, when they have had rows since; so long, in nanoseconds of event time, they are kept for that.
    pub corrects_for: Option<i64>,
}

impl Also {
    /// The names of the columns.
    pub(crate) fn columns(self) -> impl Iterator<Item = &'static str> {
        let early = self.early.then_some("early");
        early.into_iter().chain(self.corrects_for.map(|_| "correction"))
    }

    /// Results with these columns.
    pub(crate) fn schema(self, results: &Schema) -> SchemaRef {
        let marks = self.columns().map(|name| Arc::new(Field::new(name, DataType::Boolean, false)));
        Arc::new(Schema::new(results.fields().iter().cloned().chain(marks).collect::<Vec<_>>()))
    }
}

/// Rows of one or more inputs in their windows.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    /// How they come from the inputs.
    pub(crate) branches: Vec<Branch>,
    /// Their columns.
    pub(crate) rows: SchemaRef,
    /// What tells how they are computed from how other rows are.
    pub(crate) computed: u32,
    /// The windows of a row.
    pub(crate) place: Place,
    /// The windows that there are.
    pub(crate) windows: Kind,
    /// What they are added up by, where they are.
    pub(crate) partial: Option<Partial>,
}

/// A first step of an aggregate, which can be taken for some rows at a time.
#[derive(Debug, Clone)]
pub(crate) struct Partial {
    /// The aggregate of rows, over a leaf.
    pub(crate) aggregate: Arc<AggregateExec>,
    /// The windows of a partial aggregate.
    pub(crate) place: Place,
    /// Its columns with the starts, and with the ends, of windows.
    pub(crate) bounds: Vec<(usize, bool)>,
}

impl Plan {
    /// The same with a step more on each row, to rows of that schema.
    pub(crate) fn followed_by(&self, step: Step, schema: &SchemaRef) -> Self {
        let above = self.above.iter().cloned().chain([step]).collect();
        Self { above, schema: Arc::clone(schema), ..self.clone() }
    }
}

impl Leaf {
    /// The columns of what is kept.
    pub(crate) fn state(&self) -> SchemaRef {
        match &self.partial {
            Some(partial) => partial.aggregate.schema(),
            None => Arc::clone(&self.rows),
        }
    }

    /// What is kept, as far as it is of use to anybody who looks at it.
    pub(super) fn shown(&self, kept: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let part = self.partial.as_ref().and_then(|partial| partial.place.part());
        let is_shown = |column: &usize| part.is_none_or(|part| !part.contains(column));
        kept.project(&(0..kept.num_columns()).filter(is_shown).collect::<Vec<_>>())
    }

    pub(super) fn keeps(&self) -> String {
        let seconds = |nanos: i64| nanos as f64 / 1e9;
        let windows = match self.windows {
            Kind::Spaced(Spacing { slide, size, offset }) => {
                format!("windows of {} s every {} s from {} s on", seconds(size), seconds(slide), seconds(offset))
            }
            Kind::Sessions { gap, .. } => format!("sessions with gaps of less than {} s", seconds(gap)),
        };
        let columns = self.state();
        let columns: Vec<String> = columns
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), sql::type_name(field.data_type())))
            .collect();
        format!("({}) in {windows}, computed as {:08x}", columns.join(", "), self.computed)
    }

    /// What keeps rows until their windows close.
    pub(super) fn kept(&self) -> Box<dyn Kept> {
        let (place, bounds) = match &self.partial {
            Some(partial) => (&partial.place, partial.bounds.as_slice()),
            None => (&self.place, &[][..]),
        };
        let sums = Sums::new(&self.state(), self.partial.as_ref().map(|partial| &partial.aggregate));
        match place.sessions() {
            None => Box::new(Runs::new(self.windows, place, sums, bounds)),
            Some(sessions) => Box::new(InSessions::new(place, sessions, sums)),
        }
    }

    /// What is kept of rows.
    pub(super) fn keep(&self, number: usize, rows: RecordBatch) -> Result<RecordBatch> {
        let Some(partial) = &self.partial else { return Ok(rows) };
        let rows = match self.place.sessions() {
            Some(of) => sessions::bounded(&rows, &self.place.times(&rows)?, of, &partial.aggregate.input_schema())?,
            None => rows,
        };
        Ok(concat_batches(&self.state(), &leaf::collected(partial.aggregate.clone(), number, vec![rows])?)?)
    }
}
