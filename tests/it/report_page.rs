//! The page of plots of the benchmark book in a headless Chromium: it stands alone, and every plot says what it shows.
//! `make test-browser`.

use std::path::PathBuf;

use crate::browser::Browser;
use crate::support::{Place, Server, expect, qaflow, run};

/// A book of two records, one of them of several attempts, and a sweep; gives its page.
fn book(place: &Place) -> PathBuf {
    place.corpus(8, 4);
    let server = Server::start(&["--slots", "16", "--latency-ms", "60", "--jitter", "0.3"]);
    let config = place.config(&server, 8);
    let text = std::fs::read_to_string(&config).unwrap()
        + "telemetry: {gpu: {simulated: 2}}\nbudget: {gpu_hours: 5, stop_at: 1.0}\n";
    std::fs::write(&config, text).unwrap();
    let start = |extra: &[&str]| {
        let mut args = vec!["run", "run.yaml"];
        args.extend(extra);
        qaflow(&place.path(""), &args)
    };
    // An attempt that is killed, then one that goes on.
    let mut child = start(&[]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    child.kill().unwrap();
    child.wait().unwrap();
    run(place, &config, &["--bench", "first"], 0);
    run(place, &config, &["--state", "state2", "--out", "out2", "--bench", "second", "--set", "llm.concurrency=4"], 0);
    let sweep = ["bench", "sweep", "run.yaml", "--param", "concurrency=2,8", "--repeats", "2", "--name", "speed"];
    expect(&mut qaflow(&place.path(""), &sweep), 0);
    expect(&mut qaflow(&place.path(""), &["bench", "report", "run.yaml", "--documents", "1100"]), 0);
    place.path("report.html")
}

#[test]
#[ignore = "needs Chromium: make test-browser"]
fn browser_shows_the_book_with_labels_and_asks_nobody() {
    let place = Place::new();
    let page = book(&place);
    let bytes = std::fs::metadata(&page).unwrap().len();
    assert!(bytes < 2_000_000, "{bytes} bytes");
    let pictures = std::env::var_os("QAFLOW_SCREENSHOTS").map(PathBuf::from);
    for (width, height, dark) in [(1280, 900, false), (1280, 900, true), (390, 844, false)] {
        let browser = Browser::new(width, height, dark);
        browser.goto(&format!("file://{}", page.display()));
        browser.wait("document.readyState === 'complete'");
        let plots = browser.eval("document.querySelectorAll('svg').length").as_u64().unwrap();
        assert!(plots >= 12, "only {plots} plots");
        let nameless = "Array.from(document.querySelectorAll('figure svg')).filter(s => \
             !s.querySelector('title') || !s.querySelector('.x-label') || !s.querySelector('.y-label') || \
             !/\\(.+\\)$/.test(s.querySelector('.x-label').textContent) || \
             !/\\(.+\\)$/.test(s.querySelector('.y-label').textContent)).map(s => s.id)";
        assert_eq!(browser.eval(nameless), serde_json::json!([]), "plots without title, labels or units");
        let broken = "Array.from(document.querySelectorAll('svg *')).filter(e => /NaN|Infinity|undefined/\
             .test(e.outerHTML)).length";
        assert_eq!(browser.eval(broken), serde_json::json!(0));
        // No text runs out of its plot, and the page does not scroll sideways.
        assert_eq!(browser.eval("document.documentElement.scrollWidth <= window.innerWidth"), serde_json::json!(true));
        let background = browser.eval("getComputedStyle(document.body).backgroundColor");
        assert_eq!(background == serde_json::json!("rgb(21, 23, 26)"), dark, "{background}");
        assert_eq!(browser.console(), Vec::<String>::new(), "complaints in the console");
        let asked: Vec<String> = browser
            .requests()
            .into_iter()
            .filter(|url| !url.starts_with("file:") && !url.starts_with("data:"))
            .collect();
        assert_eq!(asked, Vec::<String>::new(), "requests");
        if let Some(folder) = &pictures {
            browser.resize(width, 3600);
            browser.screenshot(&folder.join(format!("report-{width}-{}.png", if dark { "dark" } else { "light" })));
        }
    }
}
