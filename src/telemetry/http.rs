//! The HTTP endpoints of a worker: the page at `/` with what it shows, `/metrics`, `/healthz` and `/readyz`.
//!
//! Nothing that is served changes anything. What one peer or all of them can ask for is bounded: by rate, by the size of a request's
//! head, by how long it takes to come, and by the number of connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{Next, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router, middleware};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::Secrets;
use crate::telemetry::rates::Rates;
use crate::telemetry::{Registry, status};
use crate::topology::Topology;

/// Connections at a time. More wait until one of these ends.
const CONNECTIONS: usize = 64;
/// How long a request may take to come, and a connection may wait for the next one.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(60);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;
/// How long nobody is let in after that has failed, say because the process has too many files open.
const PAUSE: Duration = Duration::from_millis(100);

/// What a browser is allowed to do with the page: to load and to ask for what is served here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What there is to tell of the process.
pub struct Served {
    /// Its metrics, and how it is.
    pub registry: Arc<Registry>,
    /// The pipeline that it works on.
    pub topology: Arc<Topology>,
    /// What is not to be told.
    pub secrets: Secrets,
}

/// Listens on an address, and serves what there is to tell of the process from now on until the returned handle is aborted or the
/// runtime ends. Gives the address it listens on, which is of use where the port asked for was 0.
pub async fn serve(at: SocketAddr, served: Served) -> io::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind(at).await?;
    let at = listener.local_addr()?;
    let router = router(Arc::new(served));
    Ok((at, tokio::spawn(accept(listener, router))))
}

fn router(served: Arc<Served>) -> Router {
    let text =
        |kind: &'static str, text: &'static str| get(move || async move { ([(header::CONTENT_TYPE, kind)], text) });
    Router::new()
        .route("/", text("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/page.css", text("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/page.js", text("text/javascript; charset=utf-8", include_str!("page/page.js")))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(served)
        .layer(middleware::from_fn_with_state(Arc::new(Rates::default()), admit))
        .layer(map_response(hardened))
}

async fn accept(listener: TcpListener, router: Router) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    // They end with this task.
    let mut open = JoinSet::new();
    while let Ok(permit) = connections.clone().acquire_owned().await {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection = connection(stream, router.clone().layer(Extension(peer)));
                open.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the HTTP endpoints was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request after the other of a connection until it ends, is idle or has lasted long enough.
async fn connection(stream: TcpStream, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whatever a peer does wrong is none of our business.
    let _ = tokio::time::timeout(CONNECTION, served).await;
}

/// Answers a peer that does not ask too often.
async fn admit(
    State(rates): State<Arc<Rates>>,
    Extension(peer): Extension<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match rates.admit(peer.ip(), Instant::now()) {
        true => next.run(request).await,
        false => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], "too many requests\n").into_response(),
    }
}

/// An answer that a browser takes for nothing else than what it is, keeps to itself and asks for anew each time.
async fn hardened(response: Response) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, response)
}

async fn status(State(served): State<Arc<Served>>) -> Response {
    let status = status::status(&served.registry, &served.topology, served.troubles());
    match serde_json::to_string(&status) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn metrics(State(served): State<Arc<Served>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], served.registry.render())
}

async fn ready(State(served): State<Arc<Served>>) -> impl IntoResponse {
    match served.troubles() {
        none if none.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
        troubles => (StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n"),
    }
}

impl Served {
    /// Why the process cannot do what it is there for, as everybody may know it.
    fn troubles(&self) -> Vec<String> {
        self.registry.health().troubles().iter().map(|trouble| self.secrets.conceal(trouble)).collect()
    }
}
