//! Fidelio runs pipelines: stages that are defined in TOML and SQL and chained through durable topics, with an account of
//! every row at every hop.
//!
//! # Map
//! The way of a row: [`connector`] or [`bus`] → [`codec`] → [`operator`] → [`codec`] → commit → [`bus`]. The loop that goes
//! it is in [`stage`]. What leads up to it: [`config`] reads a pipeline file, [`sql`] plans its queries, [`topology`] puts
//! its stages together. What surrounds it: [`checkpoint`], [`failure`], [`fidelity`] and [`telemetry`]. ARCHITECTURE.md
//! has the invariants.
//!
//! # Embedding
//! A program loads a pipeline, adds SQL functions of its own, runs it and stops it:
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use fidelio::{config::{Draft, Error}, sql::Engine, stage::{Options, Worker}, telemetry::Registry, topology::Topology};
//!
//! let engine = Engine::new(); // engine.register(…) adds a function
//! let (pipeline, topology) = Topology::of_draft(Draft::load("flights.toml")?, &engine).map_err(Error::Faulty)?;
//! let bus = fidelio::bus::open(&pipeline.bus, None)?;
//! let options = Options { dir: pipeline.dir.clone(), ..Options::default() };
//! let worker = Worker::start(bus, Arc::new(topology), Arc::new(Registry::default()), options).await?;
//! let stop = worker.stop(); // stop.stop() ends a worker whose sources do not end by themselves
//! let summary = worker.finished().await?;
//! # Ok(())
//! # }
//! ```
//! `examples/embed.rs` is a whole program.

pub mod allocator;
pub mod bus;
pub mod checkpoint;
pub mod cli;
pub mod codec;
pub mod config;
pub mod connector;
pub mod failure;
pub mod fault;
pub mod fidelity;
pub mod operator;
pub mod partition;
pub mod sql;
pub mod stage;
pub mod telemetry;
pub mod testing;
mod time_of_day;
pub mod topology;
