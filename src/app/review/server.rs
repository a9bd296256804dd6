//! The review page's server: this machine alone, and only who has the link.
//!
//! Everything lies below a random token in the path. A request without it, from another origin, under another host name
//! (a page elsewhere may have its name point here), or for another path gets an empty answer. Only the routes below
//! exist; no path is ever taken for a file's.

use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::passage::Source;
use super::ratings::{Rating, Ratings};
use crate::export::rows::PairRow;

/// The largest body that is read, in bytes.
const MAX_BODY: usize = 64 << 10;
/// Connections served at once.
const MAX_CONNECTIONS: usize = 64;
/// Nothing from elsewhere, nothing inline, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What is reviewed, by whom.
pub(super) struct Session {
    pub(super) token: String,
    pub(super) port: u16,
    pub(super) reviewer: String,
    pub(super) pairs: Vec<(PairRow, Source)>,
    /// Pages of each pair's document; 0 if not known.
    pub(super) pages: Vec<u32>,
    /// Pairs of the whole dataset.
    pub(super) total: usize,
    pub(super) ratings: Mutex<Ratings>,
}

/// What the page shows of a pair. The judge's marks are given only once the reviewer has decided: they would lean on
/// them.
#[derive(Serialize)]
struct Shown<'a> {
    index: usize,
    id: &'a str,
    question: &'a str,
    answer: &'a str,
    question_type: &'a str,
    document: &'a str,
    page: u32,
    pages: u32,
    source: &'a Source,
    rating: Option<Rating>,
    judge: Option<[u8; 4]>,
}

#[derive(Serialize)]
struct Overview<'a> {
    reviewer: &'a str,
    total: usize,
    /// For each pair whether it is accepted, rejected, begun, or not rated.
    states: Vec<&'static str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    index: usize,
    id: String,
    rating: Rating,
}

impl Session {
    fn rating(&self, row: &PairRow) -> Option<Rating> {
        let ratings = self.ratings.lock().unwrap_or_else(PoisonError::into_inner);
        ratings.of(row)
    }

    fn overview(&self) -> Overview<'_> {
        let states = self.pairs.iter().map(|(row, _)| match self.rating(row) {
            Some(Rating { decision: Some(decision), .. }) => decision.name(),
            Some(rating) if rating != Rating::default() => "begun",
            _ => "open",
        });
        Overview { reviewer: &self.reviewer, total: self.total, states: states.collect() }
    }

    fn shown(&self, index: usize) -> Option<Shown<'_>> {
        let (row, source) = self.pairs.get(index)?;
        let rating = self.rating(row);
        let decided = rating.as_ref().is_some_and(|rating| rating.decision.is_some());
        Some(Shown {
            index,
            id: &row.id,
            question: &row.question,
            answer: &row.answer,
            question_type: &row.question_type,
            document: &row.source_document,
            page: row.source_page,
            pages: self.pages.get(index).copied().unwrap_or(0),
            source,
            rating,
            judge: row.scores.as_ref().filter(|_| decided).map(|s| [s.clarity, s.accuracy, s.relevance, s.overall]),
        })
    }

    /// Keeps a rating; the answer's status.
    fn keep(&self, body: &[u8]) -> (StatusCode, String) {
        let refuse = |status, message: String| (status, serde_json::json!({ "error": message }).to_string());
        let given: Given = match serde_json::from_slice(body) {
            Ok(given) => given,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("this is no rating: {error}")),
        };
        let Some((row, _)) = self.pairs.get(given.index).filter(|(row, _)| row.id == given.id) else {
            return refuse(StatusCode::CONFLICT, "this page is of another review: load it again".into());
        };
        if let Some(fault) = given.rating.fault() {
            return refuse(StatusCode::BAD_REQUEST, fault);
        }
        let kept = self.ratings.lock().unwrap_or_else(PoisonError::into_inner).keep(row, given.rating);
        match kept.map(|()| serde_json::to_string(&self.shown(given.index))) {
            Ok(Ok(json)) => (StatusCode::OK, json),
            Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            Err(error) => {
                tracing::error!("{error:#}");
                refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
            }
        }
    }
}

/// Serves until `stop` ends.
pub(super) async fn serve(listener: TcpListener, session: Arc<Session>, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let session = Arc::clone(&session);
        tokio::spawn(async move {
            connection(stream, session).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, session: Arc<Session>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let session = Arc::clone(&session);
        async move { Ok::<_, std::convert::Infallible>(answer(&session, request).await) }
    });
    // A connection that breaks is the browser's affair.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(session: &Arc<Session>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if let Err(status) = allowed(&head.headers, &head.method, session.port) {
        return respond(status, "", "");
    }
    let path = head.uri.path();
    let Some(rest) = below_token(path, &session.token) else { return respond(StatusCode::NOT_FOUND, "", "") };
    let get = head.method == Method::GET;
    let post = head.method == Method::POST;
    match rest {
        "" if get => respond(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        "page.css" if get => respond(StatusCode::OK, "text/css; charset=utf-8", STYLE),
        "page.js" if get => respond(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
        "session" if get => json(&session.overview()),
        "rate" if post => {
            let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
                return respond(StatusCode::PAYLOAD_TOO_LARGE, "", "");
            };
            let (session, body) = (Arc::clone(session), body.to_bytes());
            // Waiting for the disk is no work for the runtime's own threads.
            match tokio::task::spawn_blocking(move || session.keep(&body)).await {
                Ok((status, text)) => respond(status, "application/json", text),
                Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, "", ""),
            }
        }
        _ => {
            match rest.strip_prefix("pair/").and_then(|index| index.parse().ok()).and_then(|index| session.shown(index))
            {
                Some(shown) if get => json(&shown),
                _ => respond(StatusCode::NOT_FOUND, "", ""),
            }
        }
    }
}

/// The rest of a path behind `/TOKEN/`. The token is compared in the same time whatever it is.
fn below_token<'a>(path: &'a str, token: &str) -> Option<&'a str> {
    let (given, rest) = path.strip_prefix('/')?.split_once('/')?;
    let same = given.len() == token.len()
        && given.bytes().zip(token.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0;
    same.then_some(rest)
}

/// Whether a request comes from this page, or from a person who opens the link.
fn allowed(headers: &HeaderMap, method: &Method, port: u16) -> Result<(), StatusCode> {
    let names = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or("");
    if hosts.next().is_some() || !names.iter().any(|name| name == host) {
        return Err(StatusCode::FORBIDDEN);
    }
    if text(header::ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") != Some(host)) {
        return Err(StatusCode::FORBIDDEN);
    }
    let site = text(HeaderName::from_static("sec-fetch-site"));
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(StatusCode::FORBIDDEN);
    }
    // A page elsewhere can send a form, but never this type.
    let typed = text(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    if method == Method::POST && !typed {
        return Err(StatusCode::FORBIDDEN);
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(json) => respond(StatusCode::OK, "application/json", json),
        Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, "", ""),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if !kind.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)], method: &Method) -> Result<(), StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("value"));
        }
        allowed(&map, method, 80)
    }

    #[test]
    fn only_this_page_and_the_link() {
        let host = ("host", "127.0.0.1:80");
        assert!(check(&[host], &Method::GET).is_ok());
        assert!(check(&[("host", "localhost:80"), ("origin", "http://localhost:80")], &Method::GET).is_ok());
        assert!(check(&[host, ("sec-fetch-site", "none")], &Method::GET).is_ok());
        let json = ("content-type", "application/json");
        assert!(check(&[host, json, ("origin", "http://127.0.0.1:80")], &Method::POST).is_ok());
        for (headers, method) in [
            (&[][..], Method::GET),
            (&[("host", "evil.example:80")], Method::GET),
            (&[("host", "127.0.0.1:81")], Method::GET),
            (&[host, ("host", "evil.example")], Method::GET),
            (&[host, ("origin", "http://evil.example")], Method::GET),
            (&[host, ("origin", "null")], Method::GET),
            (&[host, ("origin", "https://127.0.0.1:80")], Method::GET),
            (&[host, ("sec-fetch-site", "cross-site")], Method::GET),
            (&[host, ("sec-fetch-site", "same-site")], Method::GET),
            (&[host, ("content-type", "text/plain")], Method::POST),
            (&[host], Method::POST),
        ] {
            assert_eq!(check(headers, &method), Err(StatusCode::FORBIDDEN), "{headers:?}");
        }
    }

    #[test]
    fn the_token_stands_before_everything() {
        assert_eq!(below_token("/abc/pair/0", "abc"), Some("pair/0"));
        assert_eq!(below_token("/abc/", "abc"), Some(""));
        for path in ["/", "/abc", "/abd/", "//", "/ab/", "/abcd/", "abc/"] {
            assert_eq!(below_token(path, "abc"), None, "{path}");
        }
    }
}
