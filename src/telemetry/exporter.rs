//! Where Prometheus reads the metrics: `GET /metrics` over HTTP, only if an address is configured.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::catalogue::{CATALOGUE, Kind};

/// Readers at one time; more are turned away.
const MOST_CONNECTIONS: usize = 16;
/// How long a reader may take for its request.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How often observations are moved into their buckets, so that their list does not grow between two scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What the root page says.
const FRONT: &str = "qaflow: the metrics are at /metrics\n";

/// The metrics of this process, as Prometheus reads them. Clones share them.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
}

impl Exporter {
    /// Begins to keep metrics; before this they cost next to nothing and are lost. Needs a running runtime.
    ///
    /// # Errors
    /// If this process keeps metrics already.
    pub fn install() -> Result<Self, String> {
        let mut builder = PrometheusBuilder::new();
        for metric in CATALOGUE {
            if let Kind::Histogram(bounds) = metric.kind {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)
                    .map_err(|error| error.to_string())?;
            }
        }
        let handle = builder.install_recorder().map_err(|error| error.to_string())?;
        super::metrics::describe();
        let upkeep = handle.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP_EVERY);
            loop {
                ticks.tick().await;
                upkeep.run_upkeep();
            }
        });
        Ok(Self { handle })
    }

    /// All metrics in Prometheus' text format, the families by name.
    pub fn page(&self) -> String {
        let page = self.handle.render();
        let mut families: Vec<&str> = page.split("\n\n").filter(|family| !family.trim().is_empty()).collect();
        // `# HELP name …`; a family that nobody described begins with `# TYPE`, which sorts by name as well.
        families.sort_unstable_by_key(|family| family.get(7..));
        let mut sorted = families.join("\n");
        sorted.push('\n');
        sorted
    }

    /// Listens at `address` and serves the metrics while the runtime lives. Port 0 lets the system choose; the address
    /// that it became is returned.
    ///
    /// # Errors
    /// If the address is taken, or not of this machine.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, String> {
        let listener =
            TcpListener::bind(address).await.map_err(|error| format!("cannot listen at {address}: {error}"))?;
        let bound = listener.local_addr().map_err(|error| format!("cannot listen at {address}: {error}"))?;
        let exporter = self.clone();
        tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Too many open files, or the like: it passes.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let exporter = exporter.clone();
                tokio::spawn(async move {
                    exporter.serve(stream).await;
                    drop(place);
                });
            }
        });
        Ok(bound)
    }

    async fn serve(&self, stream: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| {
            let answer = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIME)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!("a reader of the metrics left: {error}");
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let (status, kind, text) = match path {
            _ if method != Method::GET && method != Method::HEAD => {
                (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".to_owned())
            }
            "/metrics" => (StatusCode::OK, TEXT_FORMAT, self.page()),
            "/" => (StatusCode::OK, "text/plain", FRONT.to_owned()),
            _ => (StatusCode::NOT_FOUND, "text/plain", FRONT.to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        response
    }
}
