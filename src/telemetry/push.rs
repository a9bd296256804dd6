//! Hands the final metrics to a Pushgateway, over plain HTTP: a run that has ended can no longer be read.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the gateway may take for all of it: a run that has ended holds its GPUs no longer than this for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most of its answer that is read, in bytes: the status line and the beginning of what it says.
const ANSWER: u64 = 4_096;

/// A Pushgateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// `host:port`.
    authority: String,
    /// The path before `/metrics`, without a `/` at its end.
    path: String,
}

impl Gateway {
    /// Reads its address, as in `http://pushgateway:9091`.
    ///
    /// # Errors
    /// What an address must be like.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = url.strip_prefix("http://").ok_or("must begin with http://: nothing else is spoken")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err("must hold no user and password");
        }
        if url.bytes().any(|b| b <= b' ' || b == 0x7f) || path.contains(['?', '#']) {
            return Err("must be host, port and path alone, as in http://pushgateway:9091");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, "9091"),
        };
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err("must name a host, and a port from 0 to 65535, as in http://pushgateway:9091");
        }
        Ok(Self { authority: format!("{host}:{port}"), path: format!("/{path}").trim_end_matches('/').to_owned() })
    }

    /// Replaces the metrics of the group with these labels, of which the first must be `job`, by `page`.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn put(&self, labels: &[(&str, &str)], page: &str) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.exchange(labels, page)).await {
            Ok(Ok(answer)) => judge(&answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    async fn exchange(&self, labels: &[(&str, &str)], page: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(&self.authority).await?;
        let head = format!(
            "PUT {}/metrics{} HTTP/1.1\r\nhost: {}\r\nuser-agent: qaflow/{}\r\nconnection: close\r\ncontent-type: \
             text/plain; version=0.0.4\r\ncontent-length: {}\r\n\r\n",
            self.path,
            grouping(labels),
            self.authority,
            env!("CARGO_PKG_VERSION"),
            page.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(page.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

fn judge(answer: &str) -> Result<(), String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..300) => Ok(()),
        Some(status) => {
            let said: String = body.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
            Err(format!("it answers {status}: {said}"))
        }
        None => Err("what answers there does not speak HTTP".into()),
    }
}

/// The path of a group. Values stand in base64, since a `/` in a value could not be told from one between values.
fn grouping(labels: &[(&str, &str)]) -> String {
    use std::fmt::Write as _;
    labels.iter().fold(String::new(), |mut path, (name, value)| {
        let _ = write!(path, "/{name}@base64/{}", base64(value));
        path
    })
}

/// RFC 4648's alphabet for URLs, padded; a lone `=` for nothing, as the Pushgateway wants it.
fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if text.is_empty() {
        return "=".into();
    }
    let mut encoded = String::with_capacity(text.len().div_ceil(3) * 4);
    for bytes in text.as_bytes().chunks(3) {
        let group = bytes.iter().enumerate().fold(0_u32, |group, (i, byte)| group | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i) & 63) as usize];
            encoded.push(if i > bytes.len() { '=' } else { char::from(digit) });
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let gateway = |authority: &str, path: &str| Ok(Gateway { authority: authority.into(), path: path.into() });
        assert_eq!(Gateway::parse("http://push"), gateway("push:9091", ""));
        assert_eq!(Gateway::parse("http://push:80/team/a/"), gateway("push:80", "/team/a"));
        assert_eq!(Gateway::parse("http://[::1]:9091"), gateway("[::1]:9091", ""));
        for wrong in [
            "https://push",
            "push:9091",
            "http://",
            "http://user:pw@push",
            "http://push:x",
            "http://p/a?b",
            "http://p q",
        ] {
            assert!(Gateway::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn groups_are_written_so_that_any_value_fits() {
        // Test vectors of RFC 4648, section 10, and characters that differ in the alphabet for URLs.
        let pairs = [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy"), ("~?ÿ", "fj_Dvw==")];
        for (text, encoded) in pairs {
            assert_eq!(base64(text), encoded);
        }
        assert_eq!(
            grouping(&[("job", "qaflow"), ("shard", "0/8"), ("state", "")]),
            "/job@base64/cWFmbG93/shard@base64/MC84/state@base64/="
        );
    }

    #[tokio::test]
    async fn a_gateway_that_never_answers_is_left_alone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = Gateway::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        assert_eq!(gateway.put(&[("job", "qaflow")], "a 1\n").await, Err("no answer within 3 s".to_owned()));
    }

    #[tokio::test]
    async fn the_page_is_put_and_a_refusal_is_told() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(())),
            (
                "HTTP/1.1 400 Bad Request\r\n\r\npushed metrics are\n inconsistent",
                Err("it answers 400: pushed metrics are inconsistent".to_owned()),
            ),
            ("SSH-2.0\r\n", Err("what answers there does not speak HTTP".to_owned())),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let gateway = Gateway::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (mut seen, mut buffer) = (String::new(), [0; 1024]);
                while !seen.ends_with("a 1\n") {
                    let n = stream.read(&mut buffer).await.unwrap();
                    seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                seen
            });
            assert_eq!(gateway.put(&[("job", "qaflow")], "a 1\n").await, expected);
            let seen = server.await.unwrap();
            assert!(seen.starts_with("PUT /metrics/job@base64/cWFmbG93 HTTP/1.1\r\n"), "{seen}");
            assert!(seen.contains("content-length: 4\r\n"), "{seen}");
        }
    }
}
