//! Where a plan reads rows that are put there for each evaluation.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;

/// Stack of the thread that evaluates a plan. Only what is used of it is ever memory.
const STACK_BYTES: usize = 64 << 20;

/// Rows of a batch that an evaluation gives at most.
const BATCH_ROWS: usize = 1 << 15;

/// A place in a plan where rows come in.
#[derive(Debug)]
pub(crate) struct LeafExec {
    /// Which of the plan's.
    pub(crate) number: usize,
    batches: Vec<RecordBatch>,
    properties: Arc<PlanProperties>,
}

impl LeafExec {
    pub(crate) fn new(number: usize, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { number, batches, properties: Arc::new(properties) }
    }
}

impl DisplayAs for LeafExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafExec: {}", self.number)
    }
}

impl ExecutionPlan for LeafExec {
    fn name(&self) -> &'static str {
        "LeafExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition > 0 {
            return internal_err!("there is one partition, and {partition} was asked for");
        }
        Ok(Box::pin(MemoryStream::try_new(self.batches.clone(), self.schema(), None)?))
    }
}

/// What a plan gives over these rows, a list of batches for each of its leaves.
///
/// Parts of a plan start tasks, which would wait for ever where the thread that they wait for is the one that waits here. So
/// it has a thread and a runtime of its own.
pub(super) fn evaluate(plan: &Arc<dyn ExecutionPlan>, rows: &[Vec<RecordBatch>]) -> Result<Vec<RecordBatch>> {
    let plan = filled(plan, rows)?;
    let failed = |error| DataFusionError::Execution(format!("there is no thread to evaluate windows in: {error}"));
    thread::scope(|scope| {
        let evaluate = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
            runtime.block_on(collect(plan))
        };
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, evaluate).map_err(failed)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// What a plan that starts no tasks, such as a step of an aggregate, gives over the rows of the leaf of that number.
pub(super) fn collected(
    plan: Arc<dyn ExecutionPlan>,
    number: usize,
    rows: Vec<RecordBatch>,
) -> Result<Vec<RecordBatch>> {
    let mut leaves = vec![Vec::new(); number];
    leaves.push(rows);
    // Nothing here waits, but Tokio would make it wait for its turn, which never comes to a blocked thread.
    futures::executor::block_on(tokio::task::unconstrained(collect(filled(&plan, &leaves)?)))
}

/// The plan with rows in its leaves, and with nothing left of an evaluation before.
fn filled(plan: &Arc<dyn ExecutionPlan>, rows: &[Vec<RecordBatch>]) -> Result<Arc<dyn ExecutionPlan>> {
    let filled = Arc::clone(plan).transform_up(|node| {
        // A join, for example, would give again what it collected for the rows before.
        let Some(leaf) = node.downcast_ref::<LeafExec>() else { return Ok(Transformed::yes(node.reset_state()?)) };
        let batches = rows.get(leaf.number).cloned().unwrap_or_default();
        Ok(Transformed::yes(Arc::new(LeafExec::new(leaf.number, &leaf.schema(), batches)) as Arc<dyn ExecutionPlan>))
    });
    filled.data()
}

async fn collect(plan: Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>> {
    let config = SessionConfig::new().with_batch_size(BATCH_ROWS);
    let context = Arc::new(TaskContext::default().with_session_config(config));
    let mut yielded = Vec::new();
    for partition in 0..plan.output_partitioning().partition_count() {
        yielded.append(&mut plan.execute(partition, Arc::clone(&context))?.try_collect::<Vec<_>>().await?);
    }
    Ok(yielded)
}
