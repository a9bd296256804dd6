//! Downloads a file over HTTP, in pieces, without ever holding it in memory.

use std::io::Write;
use std::time::Duration;

use thiserror::Error;

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(60);

/// Why a download failed.
#[derive(Debug, Error)]
#[error("cannot download {url}: {detail}")]
pub struct DownloadError {
    /// The address asked.
    pub url: String,
    /// What happened.
    pub detail: String,
}

/// Downloads `url` into `to` and returns how many bytes came. After each piece `progress` gets the bytes so far and
/// the size, where the server told it.
///
/// # Errors
/// No connection, a status other than success, a transfer that stands still for a minute, breaks off or is shorter
/// than announced, or a fault of `to`.
pub async fn download(
    url: &str,
    to: &mut (impl Write + Send),
    mut progress: impl FnMut(u64, Option<u64>) + Send,
) -> Result<u64, DownloadError> {
    let failed = |detail: String| DownloadError { url: url.to_owned(), detail };
    let http = |error: reqwest::Error| failed(chain(&error.without_url()));
    // Fails if one is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(STALL).build().map_err(http)?;
    let mut response = client.get(url).send().await.map_err(http)?;
    if !response.status().is_success() {
        return Err(failed(format!("the server answered {}", response.status())));
    }
    let (mut done, size) = (0, response.content_length());
    while let Some(piece) = response.chunk().await.map_err(http)? {
        to.write_all(&piece).map_err(|e| failed(format!("cannot write it: {e}")))?;
        done += piece.len() as u64;
        progress(done, size);
    }
    match size {
        Some(size) if size != done => Err(failed(format!("it broke off after {done} of {size} bytes"))),
        _ => Ok(done),
    }
}

/// An error with its causes, which reqwest does not print itself.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// Serves one connection with fixed bytes and returns its address.
    fn serve(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 4096]);
            socket.write_all(answer.as_bytes()).unwrap();
        });
        url
    }

    fn fetch(url: &str) -> (Result<u64, DownloadError>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut bytes = Vec::new();
        let result = runtime.block_on(download(url, &mut bytes, |_, _| {}));
        (result, bytes)
    }

    #[test]
    fn files_arrive_whole() {
        let (result, bytes) = fetch(&serve("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"));
        assert_eq!((result.unwrap(), bytes.as_slice()), (5, &b"hello"[..]));
    }

    #[test]
    fn faults_name_the_address_and_the_cause() {
        let missing = fetch(&serve("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")).0.unwrap_err().to_string();
        assert!(missing.starts_with("cannot download http://127.0.0.1:") && missing.contains("404"), "{missing}");
        assert!(fetch(&serve("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello")).0.is_err());
        let refused = fetch("http://127.0.0.1:1/file").0.unwrap_err().to_string();
        assert!(refused.contains("refused"), "{refused}");
    }
}
