//! Review by people: who may see the page, that nothing given is lost, and what the report makes of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::support::{Place, expect, output, qaflow};

/// Results as an export writes them, without a run: `count` pairs of two documents.
fn results(place: &Place, count: usize) -> PathBuf {
    let out = place.path("out/run");
    std::fs::create_dir_all(out.join("documents")).unwrap();
    let (mut dataset, mut index) = (String::new(), String::new());
    let names = [
        "bulletin <script>alert(1)</script> & co.pdf",
        "a-long-name-of-a-handbook-about-appeals-and-fair-hearings-2026-revised.pdf",
    ];
    let mut texts =
        [String::from("# Bulletin\n\n<img src=x onerror=alert(1)> stays text.\n\n"), String::from("# Übersicht\n\n")];
    for n in 0..count {
        let (of, sha) = (n % 2, format!("{:064x}", n % 2 + 1));
        let quote = format!(
            "The applicant must file appeal {n} with the regional office within {} calendar days after the notice.",
            20 + n
        );
        let context = format!(
            "## Section {n}. Appeals\n\nA person who disagrees with a decision – in whole or in part – may ask for a hearing. \
             {quote} The office answers in writing, and names the rule on which its answer rests.\n\nA late appeal is heard \
             where there was good cause, such as illness or a notice that did not arrive."
        );
        let start = texts[of].chars().count() + context[..context.find(&quote).unwrap()].chars().count();
        texts[of].push_str(&context);
        texts[of].push_str("\n\nThe office keeps a register of all appeals. It is open to the public on workdays.\n\n");
        let (mark, kind) = (3 + n % 3, ["numeric", "procedural"][n % 2]);
        let row = json!({
            "id": format!("{n:032x}"),
            "question": format!("Within how many days must an applicant file appeal {n} with the regional office?"),
            "answer": format!("Within {} calendar days after the notice.", 20 + n),
            "question_type": kind, "source_document": names[of], "source_sha256": sha,
            "source_page": 2, "chunk_id": "c",
            "citations": [{"quote": quote, "page": 2, "char_start": start, "char_end": start + quote.chars().count(), "match_score": 1.0}],
            "context": context, "scores": {"clarity": mark, "accuracy": mark, "relevance": 4, "overall": mark, "reason": "r"},
            "checks": {}, "model": "m", "judge_model": "j", "prompt_hash": "p", "run_id": "r",
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        });
        dataset.extend([row.to_string(), "\n".into()]);
    }
    for (of, text) in texts.iter().enumerate() {
        let sha = format!("{:064x}", of + 1);
        std::fs::write(out.join(format!("documents/{sha}.md")), text).unwrap();
        let entry = json!({"name": names[of], "sha256": sha, "state": "done", "pages": 12});
        index.extend([entry.to_string(), "\n".into()]);
    }
    std::fs::write(out.join("documents/index.jsonl"), index).unwrap();
    std::fs::write(out.join("dataset.jsonl"), dataset).unwrap();
    std::fs::write(place.path("secret.txt"), "secret").unwrap();
    out
}

/// A running review.
struct Review {
    child: Child,
    url: String,
    port: u16,
    token: String,
}

impl Review {
    fn start(place: &Place, args: &[&str]) -> Self {
        let mut command = qaflow(&place.path(""), &["review", "--out", "out/run"]);
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("Review at ").unwrap_or_else(|| panic!("no link: {line}")).to_owned();
        let (host, token) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let port = host.rsplit(':').next().unwrap().parse().unwrap();
        Self { child, port, token: token.trim_end_matches('/').to_owned(), url }
    }

    /// One exchange: status, headers, body.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    fn host(&self) -> String {
        format!("host: 127.0.0.1:{}\r\n", self.port)
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Review {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The last line about each pair, of those that are decided.
fn decided(path: &Path) -> std::collections::BTreeMap<String, Value> {
    let mut held: std::collections::BTreeMap<String, Value> =
        lines(path).into_iter().map(|line| (line["id"].as_str().unwrap().to_owned(), line)).collect();
    held.retain(|_, line| !line["decision"].is_null());
    held
}

#[test]
fn only_who_has_the_link_gets_anything() {
    let place = Place::new();
    results(&place, 4);
    let review = Review::start(&place, &["--reviewer", "anna"]);
    let (host, token, port) = (review.host(), review.token.clone(), review.port);
    assert!(token.len() >= 32);
    let page = format!("/{token}/");
    let (status, head, body) = review.ask("GET", &page, &host, "");
    assert_eq!(status, 200);
    assert!(body.contains("<title>Review"));
    assert!(head.contains("content-security-policy: default-src 'none'") && !head.contains("unsafe"), "{head}");
    for header in ["x-content-type-options: nosniff", "referrer-policy: no-referrer", "cache-control: no-store"] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert!(!body.contains("http://") && !body.contains("https://"), "the page names no other place");
    let json_type = "content-type: application/json\r\n";
    let good = json!({"index": 0, "id": "x", "rating": {}}).to_string();
    let wrong_token = format!("/{}/", "0".repeat(token.len()));
    let same_site = format!("{host}sec-fetch-site: same-site\r\n");
    let cross = format!("{host}sec-fetch-site: cross-site\r\n");
    let origin = format!("{host}origin: http://evil.example\r\n{json_type}");
    let null_origin = format!("{host}origin: null\r\n{json_type}");
    let other_port = format!("{host}origin: http://127.0.0.1:{}\r\n{json_type}", port.wrapping_add(1));
    let form = format!("{host}content-type: text/plain\r\n");
    let rebound = format!("host: evil.example:{port}\r\n");
    let rate = format!("/{token}/rate");
    let session = format!("/{token}/session");
    let outside: Vec<String> = [
        "../secret.txt",
        "..%2fsecret.txt",
        "documents/index.jsonl",
        "dataset.jsonl",
        "pair/99",
        "pair/-1",
        "pair/0/..",
        "/etc/passwd",
        "rate",
        "page.js/",
    ]
    .iter()
    .map(|path| format!("/{token}/{path}"))
    .collect();
    let mut cases: Vec<(&str, &str, &str)> = vec![
        ("GET", "/", &host),
        ("GET", "/page.js", &host),
        ("GET", "/session", &host),
        ("GET", &wrong_token, &host),
        ("GET", "/../secret.txt", &host),
        ("GET", &page, &rebound),
        ("GET", &page, ""),
        ("GET", &page, &cross),
        ("GET", &session, &same_site),
        ("GET", &session, &origin),
        ("POST", &rate, &origin),
        ("POST", &rate, &null_origin),
        ("POST", &rate, &other_port),
        ("POST", &rate, &form),
        ("POST", &page, &host),
        ("DELETE", &page, &host),
        ("OPTIONS", &rate, &origin),
    ];
    cases.extend(outside.iter().map(|path| ("GET", path.as_str(), host.as_str())));
    for (method, path, headers) in cases {
        let (status, head, body) = review.ask(method, path, headers, if method == "POST" { &good } else { "" });
        assert!([400, 403, 404].contains(&status), "{method} {path} {headers}: {status}");
        assert_eq!(body, "", "{method} {path} {headers}");
        assert!(!head.contains("access-control"), "{head}");
    }
    // A body that is too large, and ratings that are none.
    let large = json!({"index": 0, "id": "x", "rating": {"note": "x".repeat(100_000)}}).to_string();
    assert_eq!(review.ask("POST", &rate, &format!("{host}{json_type}"), &large).0, 413);
    let first: Value = serde_json::from_str(&review.ask("GET", &format!("/{token}/pair/0"), &host, "").2).unwrap();
    for (rating, expected) in [
        (json!({"clarity": 6}), 400),
        (json!({"score": 1}), 400),
        (json!({"decision": "perhaps"}), 400),
        (json!({"note": "x".repeat(4001)}), 400),
    ] {
        let body = json!({"index": 0, "id": first["id"], "rating": rating}).to_string();
        assert_eq!(review.ask("POST", &rate, &format!("{host}{json_type}"), &body).0, expected, "{rating}");
    }
    assert_eq!(review.ask("POST", &rate, &format!("{host}{json_type}"), &good).0, 409);
    assert_eq!(std::fs::read(place.path("out/run/reviews/anna.jsonl")).unwrap().len(), 0, "nothing of this was kept");
}

#[test]
fn ratings_outlive_a_kill_and_the_judge_is_hidden_until_then() {
    let place = Place::new();
    let out = results(&place, 12);
    let mut seen = Vec::new();
    for round in 0..3 {
        let review = Review::start(&place, &["--reviewer", "anna", "--sample", "6"]);
        let headers = format!("{}content-type: application/json\r\n", review.host());
        for index in [round * 2, round * 2 + 1] {
            let path = format!("/{}/pair/{index}", review.token);
            let shown: Value = serde_json::from_str(&review.ask("GET", &path, &headers, "").2).unwrap();
            assert_eq!(shown["judge"], Value::Null);
            let text: String = shown["source"]["pieces"]
                .as_array()
                .unwrap()
                .iter()
                .map(|piece| piece["text"].as_str().unwrap())
                .collect();
            assert!(text.contains("A late appeal"), "{text}");
            let rating = json!({"clarity": 5, "accuracy": 4, "relevance": 3, "overall": 4, "decision": "accept", "note": "Ä\n\"x\""});
            let body = json!({"index": index, "id": shown["id"], "rating": rating}).to_string();
            let (status, _, said) = review.ask("POST", &format!("/{}/rate", review.token), &headers, &body);
            assert_eq!(status, 200, "{said}");
            assert!(serde_json::from_str::<Value>(&said).unwrap()["judge"].is_array());
            seen.push(shown["id"].as_str().unwrap().to_owned());
        }
        review.kill();
    }
    let kept = decided(&out.join("reviews/anna.jsonl"));
    assert_eq!(kept.len(), 6);
    assert!(seen.iter().all(|id| kept[id]["note"] == "Ä\n\"x\""));
    let review = Review::start(&place, &["--reviewer", "anna", "--sample", "6"]);
    let overview: Value =
        serde_json::from_str(&review.ask("GET", &format!("/{}/session", review.token), &review.host(), "").2).unwrap();
    assert_eq!(overview["states"], json!(vec!["accept"; 6]));
    let busy = output(&mut qaflow(&place.path(""), &["review", "--reviewer", "anna"]));
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&busy.stderr).contains("another process"));
}

#[test]
fn sheets_go_out_and_come_back_and_the_report_adds_up() {
    let place = Place::new();
    let out = results(&place, 30);
    let run = |args: &[&str]| expect(&mut qaflow(&place.path(""), args), 0);
    let said = run(&["review", "report"]);
    assert!(said.contains("Nobody has reviewed"), "{said}");
    run(&["review", "export", "--reviewer", "anna", "--to", "sheet.csv"]);
    let blank = std::fs::read_to_string(place.path("sheet.csv")).unwrap();
    assert_eq!(blank.lines().count(), 21, "twenty pairs by default");
    // Anna agrees with the judge, but is stricter by one in every second pair.
    let judge: std::collections::BTreeMap<String, u64> = lines(&out.join("dataset.jsonl"))
        .iter()
        .map(|row| (row["id"].as_str().unwrap().to_owned(), row["scores"]["overall"].as_u64().unwrap()))
        .collect();
    let rate = |name: &str, lower: &dyn Fn(usize) -> u64| {
        let mut reader = csv::Reader::from_reader(blank.as_bytes());
        let headers = reader.headers().unwrap().clone();
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&headers).unwrap();
        for (n, record) in reader.records().enumerate() {
            let record = record.unwrap();
            let mark = (judge[&record[1]] - lower(n)).to_string();
            let decision = if n % 5 == 4 { "reject" } else { "accept" };
            let given = [name, &record[1], &mark, &mark, "4", &mark, decision, "fine"];
            let cells: Vec<&str> = given.into_iter().chain((8..record.len()).map(|at| &record[at])).collect();
            writer.write_record(&cells).unwrap();
        }
        let path = place.path(&format!("{name}.csv"));
        std::fs::write(&path, writer.into_inner().unwrap()).unwrap();
        run(&["review", "import", path.to_str().unwrap()])
    };
    let said = rate("anna", &|n| u64::from(n % 2 == 0));
    assert!(said.starts_with("20 ratings read, 20 of them new"), "{said}");
    assert!(rate("anna", &|n| u64::from(n % 2 == 0)).starts_with("20 ratings read, 0 of them new"));
    rate("ben", &|_| 0);
    let report: Value = serde_json::from_str(&run(&["review", "report", "--json"])).unwrap();
    assert_eq!((&report["reviewed"], &report["accepted"]["count"]), (&json!(20), &json!(16)));
    assert_eq!(report["reviewers"]["anna"]["decided"], 20);
    assert_eq!(report["between_reviewers"][0]["decision"]["kappa"], 1.0);
    assert!((report["judge"]["overall"]["bias"]["value"].as_f64().unwrap() - 0.25).abs() < 1e-9);
    let text = run(&["review", "report"]);
    assert!(text.contains("Accepted: 80.0% (16 of 20; 95% interval 58.4% to 91.9%)"), "{text}");
    // The sheet with the ratings given so far.
    let filled = run(&["review", "export", "--reviewer", "ben"]);
    assert!(filled.lines().nth(1).unwrap().starts_with("ben,"));

    // A sheet without the column leaves the notes as they were.
    let mut reader = csv::Reader::from_reader(filled.as_bytes());
    let short: String = reader
        .records()
        .map(|record| record.unwrap().iter().take(6).chain(["reject"]).collect::<Vec<_>>().join(",") + "\n")
        .collect();
    let head = "reviewer,id,clarity,accuracy,relevance,overall,decision\n";
    std::fs::write(place.path("short.csv"), format!("{head}{short}")).unwrap();
    assert!(run(&["review", "import", "short.csv"]).starts_with("20 ratings read, 16 of them new"));
    let kept = run(&["review", "export", "--reviewer", "ben"]);
    assert_eq!(kept.matches(",reject,fine,").count(), 20, "{kept}");

    // Bad rows are named, and nothing is taken.
    let before = std::fs::read(out.join("reviews/ben.jsonl")).unwrap();
    std::fs::write(
        place.path("bad.csv"),
        "reviewer,id,clarity,accuracy,relevance,overall,decision\nben,ffff,1,1,1,1,reject\nben,x,9,,,,\n",
    )
    .unwrap();
    let refused = output(&mut qaflow(&place.path(""), &["review", "import", "bad.csv"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bad.csv: line 3: clarity must be a mark from 1 to 5"));
    std::fs::write(
        place.path("bad.csv"),
        "reviewer,id,clarity,accuracy,relevance,overall,decision\nben,ffff,1,1,1,1,reject\n",
    )
    .unwrap();
    let refused = output(&mut qaflow(&place.path(""), &["review", "import", "bad.csv"]));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("line 2: the dataset holds no pair `ffff`"));
    assert_eq!(std::fs::read(out.join("reviews/ben.jsonl")).unwrap(), before);
}

const RIGHT: &str = "\u{E014}";
const LEFT: &str = "\u{E012}";
const DOWN: &str = "\u{E015}";
const ESCAPE: &str = "\u{E00C}";

/// Where the test leaves what it saw, for people to look at.
fn shots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots/review")
}

fn count_is(browser: &Browser, done: usize, of: usize) {
    browser.wait(&format!("document.getElementById('count').textContent === '{done} of {of} reviewed'"));
}

#[test]
#[ignore = "needs chromium and chromedriver: make test-browser"]
fn browser_rates_by_keyboard_and_a_kill_loses_nothing() {
    let place = Place::new();
    let out = results(&place, 14);
    let file = out.join("reviews/anna.jsonl");
    let args = ["--reviewer", "anna", "--sample", "10"];
    let review = Review::start(&place, &args);
    let browser = Browser::new(1280, 860, false);
    browser.goto(&review.url);
    count_is(&browser, 0, 10);
    browser.wait("document.querySelectorAll('#text mark').length === 1");
    assert_eq!(browser.eval("document.querySelectorAll('img, #text script').length"), json!(0), "text stays text");
    for n in 0..5 {
        browser.keys(["5544a", "4321r", "5555a", "1111r", "3345a"][n]);
        count_is(&browser, n + 1, 10);
        browser.wait(&format!("document.getElementById('place').textContent === 'Pair {}'", n + 2));
    }
    // Two marks and no decision: given, so kept.
    browser.keys("45");
    browser.wait("document.querySelectorAll('#marks button[aria-pressed=true]').length === 2");
    let began = std::time::Instant::now();
    while !lines(&file).last().is_some_and(|line| line["accuracy"] == 5 && line["decision"].is_null()) {
        assert!(began.elapsed().as_secs() < 60, "the marks were not kept");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    review.kill();
    assert_eq!(decided(&file).len(), 5);
    // What is given now is not kept, and the page says so.
    browser.keys("3");
    browser.wait("!document.getElementById('fault').hidden");
    browser.screenshot(&shots().join("server-gone.png"));
    assert!(browser.console().iter().all(|line| line.contains("ERR_CONNECTION_REFUSED")));

    let review = Review::start(&place, &args);
    browser.eval("window.onbeforeunload = null");
    let browser = Browser::new(390, 844, true);
    browser.goto(&review.url);
    count_is(&browser, 5, 10);
    browser.wait("document.getElementById('place').textContent === 'Pair 6'");
    assert_eq!(browser.eval("document.querySelectorAll('#marks button[aria-pressed=true]').length"), json!(2));
    assert_eq!(browser.eval("document.documentElement.scrollWidth <= innerWidth"), json!(true), "wider than a phone");
    browser.keys("55a");
    count_is(&browser, 6, 10);
    // Accepting without marks is not possible; a note, going back, a criterion chosen by arrow, undo.
    browser.keys("a");
    browser.wait("document.getElementById('hint').innerText.includes('First give a mark')");
    browser.screenshot(&shots().join("hint-phone-dark.png"));
    browser.keys("n");
    browser.keys(&format!("Good, but 1a{ESCAPE}"));
    browser.keys(&format!("{DOWN}{DOWN}2"));
    browser.wait("document.querySelector('#relevance button[aria-pressed=true]').textContent === '2'");
    browser.keys("u4");
    browser.wait("document.querySelector('#clarity button[aria-pressed=true]')?.textContent === '4' || document.querySelector('#relevance button[aria-pressed=true]')?.textContent === '4'");
    browser.keys("r");
    count_is(&browser, 7, 10);
    browser.keys(LEFT);
    browser.wait("document.getElementById('place').textContent === 'Pair 7' && document.getElementById('note').value === 'Good, but 1a'");
    browser.wait("!document.getElementById('judge').hidden");
    browser.keys(RIGHT);
    browser.wait("document.getElementById('place').textContent === 'Pair 8'");
    // Undo takes a decision back.
    browser.keys("5555a");
    count_is(&browser, 8, 10);
    browser.keys("u");
    count_is(&browser, 7, 10);
    browser.keys("a");
    count_is(&browser, 8, 10);
    browser.keys("5555a");
    count_is(&browser, 9, 10);
    browser.keys("5432r");
    browser.wait("!document.getElementById('done').hidden");
    browser.screenshot(&shots().join("done-phone-dark.png"));
    let held = decided(&file);
    assert_eq!(held.len(), 10);
    let accepted = held.values().filter(|line| line["decision"] == "accept").count();
    assert_eq!(accepted, 6);
    assert_eq!(browser.console(), Vec::<String>::new(), "the page's own policy and script make no noise");
    let asked = browser.requests();
    assert!(
        asked.len() > 10 && asked.iter().all(|url| url.starts_with(&review.url) || url.starts_with("data:")),
        "{asked:?}"
    );
}

#[test]
#[ignore = "needs chromium and chromedriver: make test-browser"]
fn browser_shows_the_page_in_every_size_and_light() {
    let place = Place::new();
    results(&place, 14);
    let review = Review::start(&place, &["--reviewer", "anna"]);
    let browser = Browser::new(1280, 860, false);
    for (name, width, height) in
        [("desktop", 1280, 860), ("tablet", 820, 1180), ("phone", 390, 844), ("small", 320, 568)]
    {
        for dark in [false, true] {
            browser.resize(width, height);
            browser.prefer(dark);
            browser.goto(&review.url);
            browser.wait("document.querySelectorAll('#text mark').length === 1");
            assert_eq!(
                browser.eval("document.documentElement.scrollWidth <= innerWidth"),
                json!(true),
                "{name} scrolls sideways"
            );
            browser.keys("53");
            browser.wait("document.querySelectorAll('#marks button[aria-pressed=true]').length >= 2");
            let light = if dark { "dark" } else { "light" };
            browser.screenshot(&shots().join(format!("{name}-{light}.png")));
            browser.eval("window.scrollTo(0, document.body.scrollHeight)");
            browser.screenshot(&shots().join(format!("{name}-{light}-end.png")));
            // Every text stands out from its ground as WCAG 2 AA asks.
            let faint = browser.eval(CONTRAST);
            assert_eq!(faint, json!([]), "{name} {light}");
            let unnamed = browser.eval(
                "[...document.querySelectorAll('button, textarea')].filter(e => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).length",
            );
            assert_eq!(unnamed, json!(0), "controls without a name");
        }
    }
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// The texts whose contrast is below 4.5.
const CONTRAST: &str = r"(() => {
  const rgb = (color) => (color.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(element);
    if (element.tagName === 'KBD' || element.closest('button:disabled') || element.getClientRects().length === 0) continue;
    const [a, b] = [light(rgb(style.color)), light(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(element.id || element.className || element.tagName);
  }
  return faint;
})()";
