//! Spans for a collector, over OTLP.

use std::borrow::Cow;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};

use crate::bus::Micros;
use crate::config::{Bus, Tracing};

/// Where OTLP over HTTP takes spans.
const PATH: &str = "/v1/traces";
/// How long the last spans may take to leave.
const FLUSH: Duration = Duration::from_secs(5);

/// What a task did with a row, or with several that it got together and that are of the same span of their trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// The trace.
    pub trace: u128,
    /// The span before it; 0 if it is the first.
    pub parent: u64,
    /// Its own number.
    pub id: u64,
    /// The file or the topic that they are from.
    pub from: Arc<str>,
    /// The partition, of a topic.
    pub partition: Option<u32>,
    /// The offset in it.
    pub offset: u64,
    /// How many rows.
    pub rows: u64,
    /// When they were polled.
    pub begin: Micros,
}

/// Sends spans to a collector, a batch at a time. Where it does not take them, or they are too many, they are given up: what is done
/// to rows never waits for it.
#[derive(Debug)]
pub struct Tracer {
    processor: BatchSpanProcessor,
    every: Option<NonZeroU64>,
    scope: InstrumentationScope,
    system: &'static str,
}

impl Tracer {
    /// For the spans of a pipeline. The variables of OpenTelemetry's SDKs, such as `OTEL_SERVICE_NAME` and `OTEL_BSP_SCHEDULE_DELAY`,
    /// are heard.
    pub fn new(tracing: &Tracing, pipeline: &str, bus: &Bus) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{}{PATH}", tracing.endpoint))
            .with_headers(tracing.headers.iter().cloned().collect())
            .build()?;
        let resource = Resource::builder();
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => resource,
            None => resource.with_service_name(pipeline.to_owned()),
        };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource.build());
        Ok(Self {
            processor,
            every: NonZeroU64::new((1.0 / tracing.sample).round() as u64).filter(|_| tracing.sample > 0.0),
            scope: InstrumentationScope::builder("fidelio").with_version(env!("CARGO_PKG_VERSION")).build(),
            system: match bus {
                Bus::Embedded(_) => "fidelio",
                Bus::Kafka(_) => "kafka",
            },
        })
    }

    /// Of how many rows that come in without a trace one begins a trace; `None` if none does.
    pub(crate) fn every(&self) -> Option<NonZeroU64> {
        self.every
    }

    /// Sends a span of a task of a stage, which ended then.
    pub(crate) fn send(&self, span: &Span, stage: &str, task: u32, end: Micros) {
        let mut attributes = vec![
            KeyValue::new("messaging.system", self.system),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.consumer.group.name", stage.to_owned()),
            KeyValue::new("messaging.destination.name", span.from.to_string()),
            KeyValue::new("messaging.batch.message_count", span.rows as i64),
            KeyValue::new("fidelio.task", i64::from(task)),
            KeyValue::new("fidelio.offset", span.offset as i64),
        ];
        attributes.extend(
            span.partition.map(|partition| KeyValue::new("messaging.destination.partition.id", partition.to_string())),
        );
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from(span.trace),
                SpanId::from(span.id),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: SpanId::from(span.parent),
            parent_span_is_remote: span.parent != 0,
            span_kind: if span.partition.is_some() { SpanKind::Consumer } else { SpanKind::Internal },
            name: Cow::Owned(stage.rsplit('.').next().unwrap_or(stage).to_owned()),
            start_time: time(span.begin),
            end_time: time(end),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        });
    }

    /// Sends what was not sent yet. Waits for the collector, some seconds at most.
    pub fn end(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(FLUSH) {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

fn time(micros: Micros) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros.max(0) as u64)
}
