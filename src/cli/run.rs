//! `fidelio run`: runs a pipeline's stages until everything has drained, or a signal ends it.

use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{exit, pipeline, progress, report};
use crate::config::{LineSink, Output, Pipeline, Sink};
use crate::stage::{Options, Stop, Summary, Worker};
use crate::telemetry::http::{self, Served};
use crate::telemetry::{Registry, Tracer, logs};
use crate::topology::{Topology, Work};

/// Run a pipeline until its input has ended, or a signal ends it
///
/// Every run goes on from where the last one on the same data directory left off, however that ended. A run whose
/// sources are all bounded ends by itself once everything has drained. SIGTERM and SIGINT end it as well: sources take
/// in no more, and what is in the pipeline flows out of it.
#[derive(Debug, clap::Args)]
#[command(after_help = super::EXIT_STATUS)]
pub(super) struct Args {
    /// The pipeline file.
    file: PathBuf,
    /// Where the embedded log lives, instead of where the pipeline says.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Run only this stage; may be given several times.
    #[arg(long = "stage", value_name = "NAME")]
    stages: Vec<String>,
    /// Serve a page at /, /metrics, /healthz and /readyz; a port alone listens on loopback.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    http: Option<SocketAddr>,
    /// Print the summary as one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Go on when all sources have ended, until a signal.
    #[arg(long)]
    keep_running: bool,
    /// How long a run that was told to end may take to drain.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_seconds: u64,
    /// How log lines on standard error look.
    #[arg(long, value_enum, default_value_t)]
    log_format: logs::Format,
    /// What is logged: a level, or levels by module.
    #[arg(long, env = "FIDELIO_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    let resolved = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    resolved.ok_or_else(|| "an address is PORT or HOST:PORT, for example 9464 or 127.0.0.1:9464".to_owned())
}

pub(super) async fn run(args: Args) -> ExitCode {
    if let Err(error) = logs::init(args.log_format, &args.log) {
        return exit::usage(&format!("--log: {error}"));
    }
    // Before anything that takes time: a signal that comes early is to be heard as well.
    let signals = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return exit::failed(&error),
    };
    let (pipeline, topology) = match pipeline::load(&args.file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    logs::conceal(&pipeline.secrets);
    if args.json && writes_to_stdout(&topology) {
        return exit::usage("--json would mix the summary with the rows of a sink that writes to standard output");
    }
    if let Some(name) = args.stages.iter().find(|name| topology.stage(name).is_none()) {
        return exit::usage(&format!("--stage: the pipeline has no stage `{name}`"));
    }
    match run_pipeline(&args, &pipeline, topology, signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::failed_with(error.as_ref(), &pipeline.secrets),
    }
}

fn writes_to_stdout(topology: &Topology) -> bool {
    let writes = |sink: &LineSink| sink.output == Output::Stdout;
    topology.stages.iter().any(|stage| matches!(&stage.work, Work::Sink(Sink::Lines(sink)) if writes(sink)))
}

async fn run_pipeline(
    args: &Args,
    pipeline: &Pipeline,
    topology: Topology,
    signals: (Signal, Signal),
) -> Result<(), Box<dyn std::error::Error>> {
    let registry = Arc::new(Registry::default());
    let topology = Arc::new(topology);
    if let Some(at) = args.http {
        let (registry, topology) = (registry.clone(), topology.clone());
        let served = http::serve(at, Served { registry, topology, secrets: pipeline.secrets.clone() }).await;
        let (at, _) = served.map_err(|error| format!("--http: {at} cannot be listened on: {error}"))?;
        tracing::info!("serving http://{at}/ and http://{at}/metrics");
    }
    let bus = crate::bus::open(&pipeline.bus, args.data_dir.as_deref())?;
    let stdout_is_taken = writes_to_stdout(&topology);
    let tracer =
        pipeline.tracing.as_ref().map(|tracing| Tracer::new(tracing, &topology.prefix, &pipeline.bus).map(Arc::new));
    let tracer = tracer.transpose().map_err(|error| format!("[tracing]: {error}"))?;
    let options = Options {
        stages: args.stages.clone(),
        keep_running: args.keep_running,
        drain: Duration::from_secs(args.drain_seconds),
        dir: pipeline.dir.clone(),
        tracer: tracer.clone(),
        ..Options::default()
    };
    let worker = Worker::start(bus, topology.clone(), registry.clone(), options).await?;
    registry.health().started();
    tokio::spawn(stop_on(signals, worker.stop()));
    let bars = std::io::stderr().is_terminal().then(|| progress::show(&topology, worker.meters(), &args.stages));
    let outcome = worker.finished().await;
    if let Some(tracer) = tracer {
        tokio::task::spawn_blocking(move || tracer.end()).await?;
    }
    if let Some(bars) = bars {
        bars.clear().await;
    }
    print(&outcome?, args.json, stdout_is_taken)?;
    Ok(())
}

fn print(summary: &Summary, json: bool, stdout_is_taken: bool) -> std::io::Result<()> {
    match (json, stdout_is_taken) {
        (true, _) => report::json(summary, &mut std::io::stdout().lock()),
        (false, false) => report::table(summary, &mut std::io::stdout().lock()),
        (false, true) => report::table(summary, &mut std::io::stderr().lock()),
    }
}

/// Stops the worker on SIGTERM or SIGINT; a second one ends the process on the spot, which loses nothing either.
async fn stop_on((mut terminate, mut interrupt): (Signal, Signal), stop: Stop) {
    for first in [true, false] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if !first {
            std::process::exit(1);
        }
        tracing::info!("stopping: draining what is in the pipeline");
        stop.stop();
    }
}
