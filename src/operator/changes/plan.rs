//! What the evaluation of a query consists of whose results change with each row.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use crate::bus::Micros;
use crate::operator::{Branch, Step};

/// How a query whose results change is evaluated: rows come in at the sources, and what changes flows through the nodes.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    /// Of each input whose rows replace one another, the columns that tell which.
    pub(crate) latest: Vec<Latest>,
    /// Where rows come in.
    pub(crate) sources: Vec<Source>,
    /// What they go through, each behind those that feed it.
    pub(crate) nodes: Vec<Node>,
    /// What is done to results one by one.
    pub(crate) above: Vec<Step>,
    /// The columns of the results, but for the one that says which are deleted.
    pub(crate) schema: SchemaRef,
    /// What tells results apart that replace one another; `None` where none is ever replaced.
    pub(crate) identity: Option<Vec<usize>>,
    /// The column of the results with their event time.
    pub(crate) time: Option<usize>,
    /// How long in event time is kept what nothing else limits.
    pub(crate) ttl: Option<Micros>,
}

/// An input whose rows replace one another.
#[derive(Debug, Clone)]
pub(crate) struct Latest {
    pub(crate) input: usize,
    /// Its columns, but for the one that says which rows are deleted.
    pub(crate) schema: SchemaRef,
    pub(crate) identity: Vec<usize>,
}

/// Rows of one or more inputs as they are before anything is done with several of them.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) branches: Vec<Branch>,
    pub(crate) rows: SchemaRef,
    /// The column with the event time.
    pub(crate) time: Option<usize>,
    /// Whether a row that is behind the watermark comes too late for the rows that it could have met.
    pub(crate) can_be_late: bool,
    pub(crate) to: To,
}

/// Where what changes goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// The results.
    Results,
    /// A node, on one of its sides.
    Node(usize, usize),
}

/// What changes goes through it.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) work: Work,
    /// The columns of what it gives.
    pub(crate) schema: SchemaRef,
    pub(crate) to: To,
    /// What tells what it keeps from what others keep.
    pub(crate) keeps: Vec<String>,
}

/// What a node does.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Something to each row.
    Steps(Vec<Step>),
    /// Rows of several sides together.
    Union,
    /// Rows of two sides that fit each other.
    Join(Box<Join>),
    /// Rows of a group added up.
    Aggregate(Box<Aggregate>),
    /// All rows of a group anew whenever one of them changes.
    Groups(Box<Groups>),
}

/// Something of each of two sides, of which the first has the number 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sides<T>(pub(crate) T, pub(crate) T);

impl<T> Sides<T> {
    /// That of one of them.
    pub(crate) fn of(&self, side: usize) -> &T {
        if side == 0 { &self.0 } else { &self.1 }
    }

    /// The same, to be changed.
    pub(crate) fn of_mut(&mut self, side: usize) -> &mut T {
        if side == 0 { &mut self.0 } else { &mut self.1 }
    }

    /// Both.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.0, &self.1].into_iter()
    }

    /// Both, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.0, &mut self.1].into_iter()
    }
}

/// A join.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) kind: Kind,
    pub(crate) sides: Sides<Side>,
    /// Whether two nulls are the same.
    pub(crate) null_equals_null: bool,
    /// What must hold for a pair besides, over the columns of both.
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
}

/// What becomes of pairs, and of rows that are in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pairs, and the rows of each side that are in none where that is so.
    Pairs(Sides<bool>),
    /// The rows of the first side that have a partner.
    Semi,
    /// The rows of the first side that have none.
    Anti,
}

/// A side of a join.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) schema: SchemaRef,
    /// What has to be the same.
    pub(crate) on: Vec<Arc<dyn PhysicalExpr>>,
    /// The event time of the latest partner that a row can have.
    pub(crate) until: Option<Arc<dyn PhysicalExpr>>,
    /// The column with the event time.
    pub(crate) time: Option<usize>,
    /// Whether rows are ever taken away.
    pub(crate) changes: bool,
}

/// An aggregate that can be taken of some rows at a time.
#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    /// The columns of the rows.
    pub(crate) rows: SchemaRef,
    /// Whether rows are taken away as well, so that they have a column more: 1 of a row that is added, -1 of another.
    pub(crate) weighed: bool,
    /// The first step, over a leaf.
    pub(crate) partial: Arc<AggregateExec>,
    /// What makes results of what that gives, over a leaf.
    pub(crate) last: Arc<dyn ExecutionPlan>,
    /// How many of the columns are those of the group.
    pub(crate) keys: usize,
    /// Where rows are weighed, the column of `last` with how many there are, and what is made of the others.
    pub(crate) weight: Option<(usize, Vec<Step>)>,
    /// The column of the rows with the event time.
    pub(crate) time: Option<usize>,
    /// Whether what was said of a group that is not kept any longer still holds.
    pub(crate) stays: bool,
}

/// A query over the rows of a group.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    pub(crate) rows: SchemaRef,
    /// The columns that rows of a group have in common.
    pub(crate) keys: Vec<usize>,
    /// The query, over a leaf.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// Whether rows that are not in its results are of no use any more. Results begin with the columns of rows then.
    pub(crate) keeps_results: bool,
    pub(crate) time: Option<usize>,
}

/// The name of the column that says which results are deleted.
pub(crate) const DELETED: &str = "deleted";

/// Rows with the column that says which are deleted.
pub(crate) fn with_deleted(schema: &Schema) -> SchemaRef {
    let deleted = Arc::new(Field::new(DELETED, DataType::Boolean, false));
    Arc::new(Schema::new(schema.fields().iter().cloned().chain([deleted]).collect::<Vec<_>>()))
}

impl Flow {
    /// The same with a step more on each result, to rows of that schema, where each column is that one then.
    pub(crate) fn followed_by(&self, step: Step, schema: &SchemaRef, moved: impl Fn(usize) -> Option<usize>) -> Self {
        let above = self.above.iter().cloned().chain([step]).collect();
        let identity = self.identity.as_ref().map(|columns| columns.iter().filter_map(|it| moved(*it)).collect());
        Self { above, schema: Arc::clone(schema), identity, time: self.time.and_then(moved), ..self.clone() }
    }

    /// The columns of the results, with all that is said of them.
    pub(crate) fn results(&self) -> SchemaRef {
        match self.identity {
            Some(_) => with_deleted(&self.schema),
            None => Arc::clone(&self.schema),
        }
    }
}
