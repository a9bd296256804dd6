//! A real Prometheus reads a real run, and every expression of dashboards and rules is evaluated against it.
//! `make test-prometheus` runs these tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dashboards::{dashboards, expressions, panels, root};
use crate::support::{Place, Server, http, post, qaflow};

/// Beginnings of the metrics of GPUs, process and budget; they are there if the program knows `telemetry.gpu`.
const LEDGER: [&str; 4] = ["qaflow_gpu_", "qaflow_process_memory_", "qaflow_process_cpu_", "qaflow_budget_"];

/// Whether the program knows GPUs and budget; without, expressions on their metrics are left out.
fn knows_gpus() -> bool {
    let reference = Command::new(crate::support::QAFLOW).arg("config-reference").output().unwrap();
    String::from_utf8_lossy(&reference.stdout).contains("| `gpu` |")
}

/// Makes sure that Prometheus and promtool are there.
fn need_prometheus() {
    let there = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    if there("prometheus") && there("promtool") {
        return;
    }
    let update = Command::new("apt-get").args(["update", "-qq"]).output();
    let install = Command::new("apt-get").args(["install", "-y", "-qq", "prometheus"]).output();
    assert!(
        update.is_ok() && install.is_ok_and(|o| o.status.success()) && there("prometheus"),
        "prometheus is missing: run, as root, `apt-get install -y prometheus`"
    );
}

/// promtool with arguments, in a folder; it must succeed.
fn promtool(dir: &Path, args: &[&str], stdin: &str) -> String {
    use std::io::Write as _;
    let mut child = Command::new("promtool")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// A running Prometheus with the configuration that is shipped, but for its intervals of a second.
struct Prometheus {
    child: Child,
    port: u16,
    targets: PathBuf,
}

impl Prometheus {
    fn start(place: &Place) -> Self {
        let folder = place.path("prometheus");
        for part in ["rules", "targets"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        let shipped = root().join("grafana/prometheus");
        for rules in ["rules/recording.yml", "rules/alerts.yml"] {
            std::fs::copy(shipped.join(rules), folder.join(rules)).unwrap();
        }
        let config = std::fs::read_to_string(shipped.join("prometheus.yml")).unwrap();
        assert_eq!(config.matches(": 15s").count(), 3);
        std::fs::write(folder.join("prometheus.yml"), config.replace(": 15s", ": 1s")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while http(port, "GET", "/-/ready", "").map_or(true, |said| !said.contains("Ready")) {
            assert!(began.elapsed() < Duration::from_secs(30), "Prometheus does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, port, targets: folder.join("targets") }
    }

    /// Asks its API; the data of the answer, or the error.
    fn get(&self, path: &str) -> Result<Value, String> {
        let body = http(self.port, "GET", path, "").map_err(|error| error.to_string())?;
        // A long answer comes in chunks, whose lengths stand between the lines.
        let json: String = match serde_json::from_str::<Value>(&body) {
            Ok(_) => body,
            Err(_) => unchunked(&body),
        };
        let answer: Value = serde_json::from_str(&json).map_err(|error| format!("{error}: {json}"))?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    /// The series of an instant query that have a value.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded = expression.bytes().fold(String::new(), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "%{byte:02X}");
            text
        });
        let data = self.get(&format!("/api/v1/query?query={encoded}"))?;
        let series = data["result"].as_array().cloned().unwrap_or_default();
        Ok(series.into_iter().filter(|series| series["value"][1] != "NaN").collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of an answer with `transfer-encoding: chunked`.
fn unchunked(body: &str) -> String {
    let (mut rest, mut whole) = (body.as_bytes(), Vec::new());
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let length = std::str::from_utf8(&rest[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let Some(length) = length.filter(|length| *length > 0 && rest.len() >= end + 2 + length) else { break };
        whole.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = rest.get(end + 4 + length..).unwrap_or_default();
    }
    String::from_utf8_lossy(&whole).into_owned()
}

/// Something that must have a result.
#[derive(Debug)]
struct Wanted {
    /// Where it stands.
    place: String,
    expression: String,
    /// Labels that every series must have.
    labels: Vec<String>,
}

/// What Grafana would send for an expression.
fn substituted(expression: &str) -> String {
    expression
        .replace("$__rate_interval", "15s")
        .replace("$__range", "90s")
        .replace("$run_id", ".*")
        .replace("$state", ".*")
}

/// All expressions: of panels, variables and annotations.
fn of_dashboards() -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (name, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for (expression, legend) in expressions(panel) {
                let labels = legend.split("{{").skip(1).filter_map(|part| Some(part.split_once("}}")?.0.to_owned()));
                wanted.push(Wanted {
                    place: format!("{name}, {}", panel["title"].as_str().unwrap()),
                    expression: substituted(expression),
                    labels: labels.collect(),
                });
            }
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let Some(query) = variable["query"]["query"].as_str() else { continue };
            let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
            let (selector, label) = inside.rsplit_once(',').unwrap();
            wanted.push(Wanted {
                place: format!("{name}, variable {}", variable["name"]),
                expression: format!("group by ({}) ({})", label.trim(), substituted(selector)),
                labels: vec![label.trim().to_owned()],
            });
        }
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            wanted.push(Wanted {
                place: format!("{name}, annotation {}", annotation["name"]),
                expression: substituted(annotation["target"]["expr"].as_str().unwrap()),
                labels: Vec::new(),
            });
        }
    }
    wanted
}

/// The sides of an alert's comparisons: what must have a value for the alert to be able to fire.
fn sides(expression: &str) -> Vec<String> {
    expression
        .split(" and on (run_id, state, shard) ")
        .map(|part| {
            let end = [" == ", " > ", " < "].iter().filter_map(|comparison| part.rfind(comparison)).max();
            part[..end.unwrap()].to_owned()
        })
        .collect()
}

/// The rules that Prometheus has loaded: recorded names, and the sides of alerts.
fn of_rules(prometheus: &Prometheus) -> Vec<Wanted> {
    let groups = prometheus.get("/api/v1/rules").unwrap();
    let mut wanted = Vec::new();
    for rule in groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let (name, query) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        let expressions =
            if rule["type"] == "alerting" { sides(query) } else { vec![name.to_owned(), query.to_owned()] };
        for expression in expressions {
            wanted.push(Wanted { place: format!("rule {name}"), expression, labels: Vec::new() });
        }
    }
    assert!(wanted.len() >= 25, "the rules are not loaded: {wanted:?}");
    wanted
}

/// What is wrong with the result of an expression now.
fn fault(prometheus: &Prometheus, wanted: &Wanted) -> Option<String> {
    let series = match prometheus.query(&wanted.expression) {
        Ok(series) => series,
        Err(error) => return Some(format!("{}: {}: {error}", wanted.place, wanted.expression)),
    };
    if series.is_empty() {
        return Some(format!("{}: empty: {}", wanted.place, wanted.expression));
    }
    let missing = wanted.labels.iter().find(|label| {
        series.iter().any(|series| series["metric"][label.as_str()].as_str().is_none_or(str::is_empty))
    })?;
    Some(format!("{}: a series has no label {missing}: {}", wanted.place, wanted.expression))
}

#[test]
#[ignore = "needs Prometheus; make test-prometheus"]
fn configuration_and_rules_are_sound() {
    need_prometheus();
    let folder = root().join("grafana/prometheus");
    promtool(&folder, &["check", "config", "prometheus.yml"], "");
    promtool(&folder, &["check", "rules", "rules/recording.yml", "rules/alerts.yml"], "");
    promtool(&folder, &["test", "rules", "tests/alerts.yml"], "");
    let tests = std::fs::read_to_string(folder.join("tests/alerts.yml")).unwrap();
    for line in std::fs::read_to_string(folder.join("rules/alerts.yml")).unwrap().lines() {
        let Some((_, name)) = line.split_once("- alert: ") else { continue };
        assert!(tests.matches(name).count() >= 2, "{name} is not tested to fire and to keep silent");
    }
}

#[test]
#[ignore = "needs Prometheus; make test-prometheus"]
fn every_expression_has_a_result_on_a_real_run() {
    need_prometheus();
    let place = Place::new();
    let prometheus = Prometheus::start(&place);
    place.corpus(60, 4);
    let broken = root().join("samples/program-integrity-protocol.pdf");
    std::fs::copy(broken, place.path("corpus/broken.pdf")).unwrap();
    let options = ["--bad-pairs", "0.25", "--latency-ms", "400"];
    let (one, two) = (Server::start(&options), Server::start(&options));
    let config = place.config(&one, 12);
    let text = std::fs::read_to_string(&config).unwrap();
    let both = format!("{{base_url: \"{}\"}}, {{base_url: \"{}\"}}", one.base_url, two.base_url);
    let text = text.replace(&format!("{{base_url: \"{}\"}}", one.base_url), &both)
        + &format!(
            "telemetry:\n  prometheus: 127.0.0.1:0\n  file_sd: {}\n  vllm_metrics: true\n{}",
            prometheus.targets.display(),
            if knows_gpus() { "  gpu: {simulated: 2}\nbudget: {gpu_hours: 1}\n" } else { "" }
        );
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let start =
        || qaflow(&place.path(""), &["run", &config]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();

    // The first attempt is killed, so that the second finds answers in the journal and a target file to replace.
    let mut killed = start();
    std::thread::sleep(Duration::from_secs(8));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let mut run = start();
    // Only now, since the start-up probe must find sound servers. One of them goes out for a while.
    std::thread::sleep(Duration::from_secs(5));
    let faults = "\"fault_503\": 0.05, \"fault_malformed\": 0.35";
    post(&one, "/sim/faults", &format!("{{{faults}}}"));
    post(&two, "/sim/faults", &format!("{{{faults}, \"outage_after\": 0.0, \"outage_for\": 6.0}}"));

    let mut waiting = of_dashboards();
    waiting.extend(of_rules(&prometheus));
    let all = waiting.len();
    // Rules on rules name what they are made of.
    let of_ledger =
        |text: &str| LEDGER.iter().chain(&["qaflow:gpu_", "qaflow:pairs_per_gpu"]).any(|b| text.contains(b));
    if !knows_gpus() {
        waiting.retain(|wanted| !of_ledger(&wanted.expression));
    }
    let skipped = all - waiting.len();
    let began = Instant::now();
    let mut faults;
    loop {
        // What had a result once is good: some show only what happens now and then.
        let mut still = Vec::new();
        faults = Vec::new();
        for wanted in waiting {
            if let Some(fault) = fault(&prometheus, &wanted) {
                faults.push(fault);
                still.push(wanted);
            }
        }
        waiting = still;
        let over = began.elapsed() > Duration::from_secs(80) || run.try_wait().unwrap().is_some();
        if waiting.is_empty() || over {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(faults.is_empty(), "{} of {all}:\n{}", faults.len(), faults.join("\n"));
    println!("{all} expressions, {skipped} not evaluated, after {:.0?}", began.elapsed());

    let target = &prometheus.get("/api/v1/targets?state=active").unwrap()["activeTargets"][0];
    assert_eq!((&target["health"], &target["labels"]["state"]), (&"up".into(), &"state".into()), "{target}");
    let rules = prometheus.get("/api/v1/rules").unwrap();
    for rule in rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let address = target["labels"]["instance"].as_str().unwrap();
    let page = http(address.rsplit(':').next().unwrap().parse().unwrap(), "GET", "/metrics", "").unwrap();
    promtool(&root(), &["check", "metrics"], &page);
    let named: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for metric in qaflow::telemetry::catalogue::CATALOGUE {
        let due = knows_gpus() || !LEDGER.iter().any(|start| metric.name.starts_with(start));
        assert_eq!(named.contains(metric.name), due, "{}: on the page if it is in the catalogue", metric.name);
    }

    let asked = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&run), rustix::process::Signal::TERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(75));
    println!("stopped within {:.1?}", asked.elapsed());
    let gone =
        || prometheus.get("/api/v1/targets?state=active").unwrap()["activeTargets"].as_array().unwrap().is_empty();
    let began = Instant::now();
    while !gone() {
        assert!(began.elapsed() < Duration::from_secs(20), "Prometheus still looks for a run that has ended");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Processor seconds of a process so far.
fn cpu_seconds(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// The length of a turn, and the scrapes a second of each.
const TURN: Duration = Duration::from_secs(3);
const RATES: [u32; 3] = [0, 1, 50];

#[test]
#[ignore = "a measurement of minutes; make test-prometheus"]
fn scraping_costs_less_than_a_hundredth() {
    let place = Place::new();
    place.corpus(12_000, 12);
    // As fast as the flow can: the cost of a scrape shows most where nothing waits for a model.
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 64).display().to_string();
    let set = ["--set", "telemetry.prometheus=127.0.0.1:0", "--set", "telemetry.file_sd=targets"];
    let mut child = qaflow(&place.path(""), &[&["run", &config][..], &set].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let file = std::fs::read_dir(place.path("targets")).unwrap().flatten().next().unwrap();
    let target: Value = serde_json::from_str(&std::fs::read_to_string(file.path()).unwrap()).unwrap();
    let port: u16 = target[0]["targets"][0].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let items = || -> f64 {
        let Ok(page) = http(port, "GET", "/metrics", "") else { return f64::NAN };
        let values = page.lines().filter(|line| line.starts_with("qaflow_items_total{"));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    // Turns of a few seconds without scrapes, with one a second, and with fifty a second, one after the other, so that
    // the machine's moods tell on all alike. Fifty show well what one costs, which is less than the moods.
    let turn = |rate: u32| -> Option<[f64; 3]> {
        let (cpu, done, began) = (cpu_seconds(&child), items(), Instant::now());
        while began.elapsed() < TURN {
            std::thread::sleep(Duration::from_secs(1) / rate.max(1));
            if rate > 0 {
                http(port, "GET", "/metrics", "").ok()?;
            }
        }
        let done = items() - done;
        done.is_finite().then_some(()).and_then(|()| std::fs::metadata(format!("/proc/{}/stat", child.id())).ok())?;
        Some([cpu_seconds(&child) - cpu, done, began.elapsed().as_secs_f64()])
    };
    let mut sums = [[0.0; 3]; 3];
    for round in 0..8 {
        // A fast machine may be through the corpus before: then whole rounds so far count.
        let parts: Option<Vec<[f64; 3]>> = RATES.iter().map(|rate| turn(*rate)).collect();
        let Some(parts) = parts else {
            assert!(round >= 3, "the corpus is too small for this machine: {round} rounds");
            break;
        };
        for (sum, part) in sums.iter_mut().zip(parts) {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    let page = http(port, "GET", "/metrics", "").unwrap_or_default();
    let _ = child.kill();
    let _ = child.wait();
    let cost = |[cpu, done, _]: [f64; 3]| cpu / done;
    for (rate, [cpu, done, seconds]) in RATES.iter().zip(sums) {
        println!(
            "{rate:>2} scrapes a second: {:.3} ms of CPU an item, {:.0} items a second, {:.2} cores busy",
            cpu / done * 1e3,
            done / seconds,
            cpu / seconds
        );
    }
    let share = (cost(sums[2]) / cost(sums[0]) - 1.0) / f64::from(RATES[2]);
    println!("a scrape a second costs {:.3}% of throughput; a page has {} KB", share * 100.0, page.len() / 1024);
    assert!(share < 0.01, "a scrape a second costs {:.2}% of throughput", share * 100.0);
}
