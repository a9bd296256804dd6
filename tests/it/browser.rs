//! A small `WebDriver` client: a headless Chromium of its own, driven over plain HTTP, for the tests of pages.
//!
//! It needs `chromium` and `chromedriver` (Debian: chromium, chromium-driver); tests that use it are ignored and run by
//! `make test-browser`, their names beginning with `browser_`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long a page may take for anything. The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A chromedriver with one window.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    dark: bool,
}

impl Browser {
    /// Opens a window whose page is `width` by `height` CSS pixels, for a person who prefers light or dark.
    pub(crate) fn new(width: u32, height: u32, dark: bool) -> Self {
        let driver = Command::new("chromedriver")
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver (Debian: chromium-driver): {error}"));
        let mut browser = Self { driver, port: 0, session: String::new(), dark };
        let mut lines = BufReader::new(browser.driver.stdout.take().unwrap());
        let mut line = String::new();
        // "ChromeDriver was started successfully on port 41234."
        while browser.port == 0 {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "chromedriver did not start");
            let port = line.trim().trim_end_matches('.').rsplit(' ').next().and_then(|word| word.parse().ok());
            browser.port = port.filter(|_| line.contains("on port")).unwrap_or(0);
        }
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                "--disable-background-networking", "--disable-component-update", "--no-first-run",
                format!("--window-size={width},{}", height + 200),
            ]},
        }}});
        let made = browser.call("POST", "/session", &capabilities);
        browser.session.push_str(made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}")));
        browser.resize(width, height);
        browser
    }

    /// Makes the page so large, in CSS pixels, whatever the window's frame.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let mobile = width < 600;
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": if mobile { 2 } else { 1 }, "mobile": mobile}),
        );
        self.prefer(self.dark);
    }

    /// Tells pages whether the person prefers dark.
    pub(crate) fn prefer(&self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &feature);
    }

    fn devtools(&self, command: &str, params: &Value) {
        self.ask("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": params}));
    }

    /// Opens an address and waits until it is loaded.
    pub(crate) fn goto(&self, url: &str) {
        self.ask("POST", "/url", &json!({ "url": url }));
    }

    /// The value of an expression on the page.
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.ask("POST", "/execute/sync", &json!({"script": format!("return ({expression})"), "args": []}))
    }

    /// Waits until an expression is true.
    pub(crate) fn wait(&self, expression: &str) {
        let began = Instant::now();
        while self.eval(expression) != json!(true) {
            let page = self.eval("document.body.innerText");
            assert!(began.elapsed() < PATIENCE, "waited in vain for {expression}; the page says: {page}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Presses keys, one after the other, where the focus is. Special keys are `WebDriver`'s (`\u{E00C}`: Escape).
    pub(crate) fn keys(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})))
            .collect();
        self.ask("POST", "/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}));
    }

    /// Writes the page as seen to a PNG.
    pub(crate) fn screenshot(&self, path: &Path) {
        let encoded = self.ask("GET", "/screenshot", &Value::Null);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, base64(encoded.as_str().unwrap())).unwrap();
    }

    /// What the console said since the last call, level and text.
    pub(crate) fn console(&self) -> Vec<String> {
        self.log("browser")
            .iter()
            .map(|entry| format!("{}: {}", entry["level"].as_str().unwrap(), entry["message"].as_str().unwrap()))
            .collect()
    }

    /// The addresses that were asked for since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.log("performance")
            .iter()
            .filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok())
            .filter(|entry| entry["message"]["method"] == "Network.requestWillBeSent")
            .filter_map(|entry| Some(entry["message"]["params"]["request"]["url"].as_str()?.to_owned()))
            .collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        self.ask("POST", "/se/log", &json!({ "type": kind })).as_array().cloned().unwrap_or_default()
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        self.call(method, &format!("/session/{}{path}", self.session), body)
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .unwrap();
        let answer = response(&mut stream);
        let value: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{method} {path}: {answer}"));
        assert!(value["value"]["error"].is_null(), "{method} {path}: {}", value["value"]);
        value["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ending the session ends its Chromium; the driver is ours to end.
        if !self.session.is_empty() && !std::thread::panicking() {
            self.call("DELETE", &format!("/session/{}", self.session), &Value::Null);
        } else if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ = write!(stream, "DELETE /session/{} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", self.session);
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = stream.read(&mut [0; 64]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The body of a response: the driver keeps its connections open, so its length is what counts.
fn response(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for value in text.bytes().filter_map(|byte| ALPHABET.iter().position(|known| *known == byte)) {
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xFF) as u8);
        }
    }
    bytes
}
