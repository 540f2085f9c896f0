//! The HTTP endpoints of a worker: `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::telemetry::Registry;

/// What the endpoints tell of.
#[derive(Clone)]
pub struct Endpoints {
    /// The metrics.
    pub registry: Arc<Registry>,
    /// Whether the worker has started.
    pub ready: Arc<AtomicBool>,
}

/// Listens on an address, and serves from now on until the returned handle is aborted or the runtime ends. Gives the
/// address it listens on, which is of use where the port asked for was 0.
pub async fn serve(at: SocketAddr, endpoints: Endpoints) -> std::io::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind(at).await?;
    let at = listener.local_addr()?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(endpoints);
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP endpoints stopped");
        }
    });
    Ok((at, server))
}

async fn metrics(State(endpoints): State<Endpoints>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], endpoints.registry.render())
}

async fn ready(State(endpoints): State<Endpoints>) -> impl IntoResponse {
    match endpoints.ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
    }
}
