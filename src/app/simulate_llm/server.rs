//! The HTTP side: listening, connections, outages and the routes.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};

use super::SimOptions;
use super::cache::{BLOCK_TOKENS, PrefixCache};
use super::chat::{self, SimBody};
use super::faults::{FaultOptions, Faults};
use super::log::RequestLog;
use super::stats::{Stats, StatsReport};
use super::wire;

/// The largest body that is read.
const MAX_BODY: usize = 64 << 20;

/// What all connections share.
pub(super) struct Shared {
    pub(super) options: SimOptions,
    /// Tokio's semaphore is fair: first come, first served.
    pub(super) slots: Arc<Semaphore>,
    pub(super) stats: Mutex<Stats>,
    pub(super) cache: Mutex<PrefixCache>,
    pub(super) log: Option<RequestLog>,
    faults: RwLock<Arc<Faults>>,
    faults_changed: Notify,
    stop: Notify,
    started_unix: u64,
}

/// Locks; what a panicking thread left behind is still counted on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The faults in force.
    pub(super) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_faults(&self, options: FaultOptions) -> Result<(), String> {
        options.check()?;
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Faults::new(options, Instant::now()));
        self.faults_changed.notify_one();
        Ok(())
    }

    fn report(&self) -> StatsReport {
        let lost = self.log.as_ref().map_or(0, RequestLog::failed);
        lock(&self.stats).report(Instant::now(), lost)
    }
}

/// A running server.
pub struct SimHandle {
    shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl SimHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client takes as its base URL: `http://ADDRESS/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it counted since the start or the last reset.
    pub fn stats(&self) -> StatsReport {
        self.shared.report()
    }

    /// Counts from zero again; attempts of request ids, too.
    pub fn reset_stats(&self) {
        lock(&self.shared.stats).reset(Instant::now());
    }

    /// Replaces all fault options; an outage's times count from now.
    ///
    /// # Errors
    /// A text that names the option which is out of its range.
    pub fn set_faults(&self, options: FaultOptions) -> Result<(), String> {
        self.shared.set_faults(options)
    }

    /// Asks it to end: it stops listening and breaks off what is in flight.
    pub fn stop(&self) {
        self.shared.stop.notify_one();
    }

    /// Waits until it has ended and all connections are gone.
    pub async fn join(self) {
        // The task has no result, and a panic in it has been reported by the runtime.
        let _ = self.task.await;
    }
}

/// Starts a server on `listener` in the current tokio runtime. It ends when `shutdown` does, or on
/// [`SimHandle::stop`].
///
/// # Errors
/// The fault options are out of range, or the log cannot be opened.
pub async fn serve(
    listener: TcpListener,
    options: SimOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<SimHandle> {
    options.faults.check().map_err(anyhow::Error::msg)?;
    let address = listener.local_addr().context("cannot tell the address of the listening socket")?;
    let log = match &options.log {
        Some(path) => Some(RequestLog::open(path).with_context(|| {
            format!("cannot open the request log {}: its folder must exist and be writable", path.display())
        })?),
        None => None,
    };
    let now = Instant::now();
    let shared = Arc::new(Shared {
        slots: Arc::new(Semaphore::new(options.slots as usize)),
        stats: Mutex::new(Stats::new(options.slots, now)),
        cache: Mutex::new(PrefixCache::new(options.cache_blocks as usize)),
        log,
        faults: RwLock::new(Arc::new(Faults::new(options.faults.clone(), now))),
        faults_changed: Notify::new(),
        stop: Notify::new(),
        started_unix: wire::unix_seconds(),
        options,
    });
    let task = tokio::spawn(listen(listener, address, Arc::clone(&shared), shutdown));
    Ok(SimHandle { shared, address, task })
}

/// Accepts connections, and while an outage refuses them, does not listen at all.
async fn listen(
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut shutdown = pin!(shutdown);
    // A change breaks every connection that subscribed before it.
    let (breaker, _) = watch::channel(());
    let mut listener = Some(listener);
    loop {
        let now = Instant::now();
        let refusal = shared.faults().refusal().filter(|(_, until)| *until > now);
        if let Some((from, until)) = refusal
            && from <= now
        {
            listener = None;
            breaker.send_replace(());
            tokio::select! {
                () = &mut shutdown => break,
                () = shared.stop.notified() => break,
                () = shared.faults_changed.notified() => {}
                () = sleep_until(until.into()) => {}
            }
            continue;
        }
        let Some(open) = &listener else {
            match TcpListener::bind(address).await {
                Ok(bound) => listener = Some(bound),
                Err(error) => {
                    tracing::warn!(%error, %address, "cannot listen again after the outage yet");
                    tokio::select! {
                        () = &mut shutdown => break,
                        () = shared.stop.notified() => break,
                        () = sleep(Duration::from_millis(50)) => {}
                    }
                }
            }
            continue;
        };
        let outage = async {
            match refusal {
                Some((from, _)) => sleep_until(from.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut shutdown => break,
            () = shared.stop.notified() => break,
            () = shared.faults_changed.notified() => {}
            () = outage => {}
            accepted = open.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, Arc::clone(&shared), breaker.subscribe()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(20)).await;
                }
            },
        }
    }
    drop(listener);
    breaker.send_replace(());
    breaker.closed().await;
}

/// The connection is to be broken off without an answer.
#[derive(Debug)]
pub(super) struct Severed;

impl fmt::Display for Severed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken off, as the fault options ask")
    }
}

impl std::error::Error for Severed {}

/// Serves one connection until it ends, a fault severs it, or all are broken.
async fn connection(stream: TcpStream, shared: Arc<Shared>, mut broken: watch::Receiver<()>) {
    // Without delay: an answer is written at once or not at all.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| route(Arc::clone(&shared), request));
    let mut served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let severed = tokio::select! {
        result = &mut served => result.is_err_and(|error| error.is_user()),
        _ = broken.changed() => true,
    };
    if severed {
        // The client sees "connection reset by peer" rather than an orderly end.
        let _ = served.into_parts().io.inner().set_zero_linger();
    }
}

async fn route(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<SimBody>, Severed> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("The request body is larger than {MAX_BODY} bytes.");
            return Ok(wire::error(StatusCode::PAYLOAD_TOO_LARGE, "BadRequestError", None, &message));
        }
        Err(_) => return Err(Severed),
    };
    let path = head.uri.path();
    if path == "/v1/chat/completions" && head.method == Method::POST {
        return chat::complete(&shared, &head.headers, &body).await;
    }
    if let Some(path) = path.strip_prefix("/sim/") {
        return Ok(control(&shared, &head.method, path, &body));
    }
    let faults = shared.faults();
    if faults.out(Instant::now()) {
        let error = "The server is restarting.";
        return Ok(if faults.options.html_errors {
            wire::html_error()
        } else {
            wire::error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableError", None, error)
        });
    }
    if path.starts_with("/v1") && !chat::authorized(&shared, &head.headers) {
        return Ok(chat::unauthorized());
    }
    let options = &shared.options;
    Ok(match (path, &head.method) {
        ("/v1/models", &Method::GET) => wire::json(
            StatusCode::OK,
            &json!({"object": "list", "data": [{
                "id": options.model, "object": "model", "created": shared.started_unix, "owned_by": "qaflow",
                "root": options.model, "parent": null, "max_model_len": options.max_model_len,
            }]}),
        ),
        ("/health", &Method::GET) => {
            let status = if faults.options.unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            wire::response(status, "text/plain", "")
        }
        ("/version", &Method::GET) => {
            wire::json(StatusCode::OK, &json!({ "version": concat!("qaflow-sim-", env!("CARGO_PKG_VERSION")) }))
        }
        ("/tokenize", &Method::POST) => match chat::tokenize(&body) {
            Ok(count) => wire::json(
                StatusCode::OK,
                &json!({"count": count, "max_model_len": options.max_model_len, "tokens": (0..count).collect::<Vec<_>>()}),
            ),
            Err(error) => wire::error(StatusCode::BAD_REQUEST, "BadRequestError", None, &error),
        },
        ("/metrics", &Method::GET) => {
            let cache = {
                let cache = lock(&shared.cache);
                (cache.queried, cache.hit)
            };
            let capacity = u64::from(options.cache_blocks) * BLOCK_TOKENS;
            let text = lock(&shared.stats).metrics(&options.model, cache, capacity);
            wire::response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        ("/v1/chat/completions" | "/v1/models" | "/health" | "/version" | "/tokenize" | "/metrics", _) => {
            wire::json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "detail": "Method Not Allowed" }))
        }
        _ => wire::json(StatusCode::NOT_FOUND, &json!({ "detail": "Not Found" })),
    })
}

/// What steers and watches the simulation itself; works through outages that do not refuse connections.
fn control(shared: &Shared, method: &Method, path: &str, body: &Bytes) -> Response<SimBody> {
    let bad = |message: &str| wire::error(StatusCode::BAD_REQUEST, "BadRequestError", None, message);
    match (path, method) {
        ("stats", &Method::GET) => wire::json(StatusCode::OK, &shared.report()),
        ("reset", &Method::POST) => {
            lock(&shared.stats).reset(Instant::now());
            wire::json(StatusCode::OK, &shared.report())
        }
        ("faults", &Method::GET) => wire::json(StatusCode::OK, &shared.faults().options),
        ("faults", &Method::POST) => match serde_json::from_slice::<FaultOptions>(body) {
            Ok(options) => match shared.set_faults(options) {
                Ok(()) => wire::json(StatusCode::OK, &shared.faults().options),
                Err(error) => bad(&error),
            },
            Err(error) => bad(&format!("these are not fault options: {error}")),
        },
        ("stats" | "reset" | "faults", _) => {
            wire::json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "detail": "Method Not Allowed" }))
        }
        _ => wire::json(StatusCode::NOT_FOUND, &json!({ "detail": "Not Found: try stats, reset or faults" })),
    }
}
