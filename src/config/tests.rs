//! Both files together: what is read from them, and what is said of their faults.

use std::env::VarError;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

mod values;

use super::pipeline::tests::Fake;
use super::*;

/// Faults one a line, sorted.
pub(super) fn shown(faults: Vec<Fault>) -> String {
    settle(faults, Vec::new()).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The tree of a text that must be sound.
pub(super) fn parsed(file: &str, text: &str) -> Node {
    let mut faults = Vec::new();
    let tree = yaml::parse(&file.into(), text.as_bytes(), &lookup, &mut faults);
    assert_eq!(faults, []);
    tree.expect("well-formed")
}

fn lookup(name: &str) -> Result<String, VarError> {
    match name {
        "VLLM_BASE_URL" => Ok("http://gpu1:8000/v1".into()),
        "SLOTS" => Ok("32".into()),
        "SECRET" => Ok("sk-1234567890 secret".into()),
        _ => Err(VarError::NotPresent),
    }
}

const PIPELINE: &str = "name: demo\nstages:\n  extract: {kind: extract, input: source}\n  \
                        chunk: {kind: chunk, input: extract}\n";
const RUN: &str = "pipeline: ../pipelines/demo.yaml\ninput: data\nllm:\n  \
                   endpoints: [{base_url: \"http://localhost:8000/v1\"}]\n  model: m\n";

/// A folder with both files, so that paths in messages can be shown without the folder.
struct Folder(TempDir);

impl Folder {
    fn new(run: impl AsRef<[u8]>, pipeline: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        for (name, text) in [("configs/run.yaml", run.as_ref()), ("pipelines/demo.yaml", pipeline.as_ref())] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        Self(folder)
    }

    fn load(&self, overrides: &[&str]) -> Result<Loaded<String>, ConfigError> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        load_with(&self.0.path().join("configs/run.yaml"), &overrides, &Fake, &lookup)
    }

    /// What is said of the faults, with paths from the folder on.
    fn faults(&self, overrides: &[&str]) -> String {
        let error = self.load(overrides).expect_err("faulty");
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn defaults_hold() {
    let folder = Folder::new(RUN, PIPELINE);
    let loaded = folder.load(&[]).expect("sound");
    assert_eq!(loaded.warnings, []);
    let run = format!("{:#?}", loaded.run).replace(&format!("{}/", folder.0.path().display()), "");
    insta::assert_snapshot!(run, @r#"
    RunConfig {
        pipeline: "pipelines/demo.yaml",
        input: [
            "configs/data",
        ],
        manifest: None,
        state: "state/run",
        out: "out/run",
        environment: Local,
        run_id: None,
        llm: LlmConfig {
            provider: Openai,
            endpoints: [
                Endpoint {
                    base_url: "http://localhost:8000/v1",
                    weight: 1,
                    api_key_env: None,
                },
            ],
            model: "m",
            api_key_env: None,
            weights: None,
            threads: 1,
            concurrency: Fixed(
                16,
            ),
            requests_per_minute: None,
            tokens_per_minute: None,
            request_timeout: None,
            connect_timeout: 10s,
            wait_for_server: 3s,
            retry_initial: 500ms,
            retry_max: 10s,
            retry_timeouts: None,
            give_up_after: Some(
                1800s,
            ),
            extra_body: {},
            structured_output: ResponseFormat,
        },
        shutdown_grace: 20s,
        max_failure_ratio: 0.05,
        export: ExportOptions {
            formats: {
                Jsonl,
            },
            splits: None,
            passage: false,
        },
        store: StoreConfig {
            cache_mb: 16,
            lease: 60s,
        },
        slurm: SlurmConfig {
            job_name: None,
            partition: None,
            account: None,
            qos: None,
            constraint: None,
            gres: None,
            cpus: 4,
            memory: None,
            time: None,
            options: [],
            log: "slurm-%x-%j.log",
            modules: [],
            setup: [],
            container: "",
            program: None,
            warn_before: None,
            restarts: 5,
            shards: 1,
            at_once: 0,
            server: None,
        },
        telemetry: TelemetryConfig {
            gpu: Auto,
        },
        budget: None,
        targets: TelemetryTargets {
            prometheus: None,
            file_sd: None,
            pushgateway: None,
            vllm_metrics: false,
        },
        gate: GateConfig {
            max_minutes_per_pdf: None,
            min_pdfs_per_hour: None,
            max_gpu_hours_per_pdf: None,
            min_clarity: Some(
                4.0,
            ),
            min_accuracy: Some(
                4.2,
            ),
            min_relevance: Some(
                4.0,
            ),
            min_acceptance: Some(
                0.85,
            ),
            max_quality_drop: Some(
                0.2,
            ),
            max_failed: Some(
                0.05,
            ),
            budget: Some(
                Close,
            ),
            no_critical_issue: true,
        },
    }
    "#);
}

#[test]
fn overrides_reach_both_files() {
    let loaded = Folder::new(RUN, PIPELINE)
        .load(&[
            "llm.endpoints.0.base_url=${VLLM_BASE_URL}",
            "llm.endpoints.1={base_url: \"http://gpu2/v1\"}",
            "llm.concurrency=auto",
            "state=here",
            "input=[a, /b]",
            "shutdown.grace=5",
            "stages.chunk.size=1000",
            "pipeline.stages.extract.concurrency=3",
            "stages.chunk.size=200",
        ])
        .expect("sound");
    let urls: Vec<&str> = loaded.run.llm.endpoints.iter().map(|e| e.base_url.as_str()).collect();
    assert_eq!(urls, ["http://gpu1:8000/v1", "http://gpu2/v1"]);
    assert_eq!(loaded.run.llm.concurrency, Concurrency::Auto);
    assert_eq!(loaded.run.state, PathBuf::from("here"));
    assert_eq!(loaded.run.input, [PathBuf::from("a"), PathBuf::from("/b")]);
    assert_eq!(loaded.run.shutdown_grace, Duration::from_secs(5));
    assert_eq!(loaded.pipeline.stages[1].params, "size 200");
    assert_eq!(loaded.pipeline.stages[0].concurrency, Some(3));
}

#[test]
fn the_embedded_model_needs_no_endpoints() {
    let run = "pipeline: ../pipelines/demo.yaml\nllm: {provider: embedded, endpoints: [{base_url: nonsense}]}\n";
    let folder = Folder::new(run, PIPELINE);
    let loaded = folder.load(&[]).expect("sound");
    let llm = loaded.run.llm;
    assert_eq!((llm.provider, llm.model.as_str(), llm.endpoints.len()), (Provider::Embedded, EMBEDDED_MODEL, 0));
    // What is left out of account is told.
    let warned = |loaded: Loaded<String>| {
        let text = loaded.warnings.iter().map(ToString::to_string).collect::<String>();
        text.replace(&format!("{}/", folder.0.path().display()), "")
    };
    insta::assert_snapshot!(warned(folder.load(&[]).expect("sound")), @"configs/run.yaml:2: llm.endpoints is ignored: with `provider: embedded` the demo model SmolLM2-135M-Instruct answers; to ask the servers write `provider: openai`");
    insta::assert_snapshot!(warned(folder.load(&["llm.model=big", "llm.endpoints="]).expect("sound")), @"--set: llm.model `big` is a name only: with `provider: embedded` the demo model SmolLM2-135M-Instruct answers; to ask the servers write `provider: openai`");
    assert!(warned(folder.load(&["llm.model=big"]).expect("sound")).contains("is ignored, and llm.model `big` is"));
    for quiet in [["llm.endpoints=", "llm.model="], ["llm.endpoints=", "llm.model=SmolLM2-135M-Instruct"]] {
        assert_eq!(warned(folder.load(&quiet).expect("sound")), "");
    }
}

#[test]
fn faults_of_both_files_come_at_once() {
    let run = "pipeline: ../pipelines/demo.yaml
input: data
llm:
  endpoints: [{base_url: \"${NOWHERE}\"}, {base_url: \"localhost:8000\"}]
  concurency: 20
  requests_per_minute: ${RATE}
max_failure_ratio: 5
";
    let pipeline = "stages:
  extract: {kind: extract, input: source}
  chunk: {kind: chunk, input: extrakt, size: 1}
  chunk: {kind: chunk, input: extract}
  score: {kind: scor, input: chunk}
";
    let faults = Folder::new(run, pipeline).faults(&["llm.retry.initial_ms=soon", "stages.chunk.size.x=1", "typo"]);
    insta::assert_snapshot!(faults, @r#"
    --set: llm.retry.initial_ms must be a whole number from 1 to 3600000, not "soon"
    --set: stages.chunk.size must be a whole number from 100 to 100000, not a map
    --set typo: it must be path.to.key=value
    configs/run.yaml:3: llm.model is missing: the model's name as the servers know it
    configs/run.yaml:4: llm.endpoints.1.base_url must begin with http:// or https://
    configs/run.yaml:4: the environment variable `NOWHERE` is not set: set it, or give a default as in `${NOWHERE:-default}`
    configs/run.yaml:5: unknown key `llm.concurency`: did you mean `concurrency`?
    configs/run.yaml:6: the environment variable `RATE` is not set: set it, or give a default as in `${RATE:-default}`
    configs/run.yaml:7: max_failure_ratio must be a number from 0 to 1, not 5
    pipelines/demo.yaml:4: the key `chunk` stands twice, first on line 3
    pipelines/demo.yaml:5: stages.score.kind: there is no kind of stage `scor`: known are: extract, chunk, generate, choosy
    11 faults: nothing was started
    "#);
}

#[test]
fn every_fault_of_a_run() {
    let run = "input: [data, 5.5, \"~/data\"]
manifest: list.txt
state: same
out: same
environment: moon
run_id: a b
llm:
  provider: openai
  endpoints:
    - base_url: ftp://x
    - {weight: 0, base_url: http://x/v1/chat/completions}
    - {base_url: \"http://me:pw@x/v1\", api_key_env: \"${SECRET}\"}
    - text
    - {}
    - {base_url: \"http://same/v1\"}
    - {base_url: \"http://same/v1/\"}
  model: \" \"
  api_key_env: ${SECRET}
  threads: -1
  concurrency: 5000
  requests_per_minute: 0
  tokens_per_minute: many
  request_timeout_seconds: 0
  connect_timeout_seconds: soon
  retry: {initial_ms: 500, max_ms: 100}
  outage: {give_up_after: 0}
  extra_body: {model: x, top_k: .inf}
  structured_output: guided_json
shutdown: {grace: -5}
max_failure_ratio: 1.5
store: {cache_mb: 1, lease_seconds: 1}
telemetry: {prometheus: 9464, gpu: {held: 0}}
budget: {gpu_hours: -1, warn_at: 2}
unknown: 1
";
    let faults = Folder::new(run, PIPELINE).faults(&[]);
    assert!(!faults.contains("sk-") && !faults.contains("pw"), "a secret is shown: {faults}");
    insta::assert_snapshot!(faults, @r#"
    configs/run.yaml:1: input holds a `~`, which only a shell expands: write `${HOME}` instead
    configs/run.yaml:1: input.1 must be text, not 5.5
    configs/run.yaml:1: pipeline is missing: the pipeline file: the graph of stages
    configs/run.yaml:2: give either `input` or `manifest`, not both: it must be clear what the corpus is
    configs/run.yaml:4: `state` and `out` must be different folders
    configs/run.yaml:5: environment must be one of local, cluster, not "moon"
    configs/run.yaml:6: run_id must be letters, digits and `._-`, at most 100, with a letter or digit first
    configs/run.yaml:10: llm.endpoints.0.base_url must begin with http:// or https://
    configs/run.yaml:11: llm.endpoints.1.base_url must end before /chat/completions, which is added to it
    configs/run.yaml:11: llm.endpoints.1.weight must be a whole number from 1 to 1000, not 0
    configs/run.yaml:12: llm.endpoints.2.api_key_env must be the name of an environment variable (letters, digits and `_`) that holds the key, never the key itself
    configs/run.yaml:12: llm.endpoints.2.base_url must hold no user and password: put the key into a variable and name it in api_key_env
    configs/run.yaml:13: llm.endpoints.3 must be a map of keys and values, not text
    configs/run.yaml:14: llm.endpoints.4.base_url is missing: the server's URL up to and with /v1
    configs/run.yaml:16: llm.endpoints.6 names the same server as another: give it a `weight` instead
    configs/run.yaml:17: llm.model is missing: the model's name as the servers know it
    configs/run.yaml:18: llm.api_key_env must be the name of an environment variable (letters, digits and `_`) that holds the key, never the key itself
    configs/run.yaml:19: llm.threads must be a whole number from 0 to 1024, not -1
    configs/run.yaml:20: llm.concurrency must be a whole number from 1 to 4096, or auto, not 5000
    configs/run.yaml:21: llm.requests_per_minute must be a whole number from 1 to 4294967295, not 0
    configs/run.yaml:22: llm.tokens_per_minute must be a whole number from 1 to 4294967295, not "many"
    configs/run.yaml:23: llm.request_timeout_seconds must be at least 1s
    configs/run.yaml:24: llm.connect_timeout_seconds must be a duration such as 90s, 5m or 2h, or a number of seconds, not "soon"
    configs/run.yaml:25: llm.retry.max_ms must not be less than initial_ms (500)
    configs/run.yaml:26: llm.outage.give_up_after must be never, or a duration such as 90s, 5m or 2h, or a number of seconds, not 0
    configs/run.yaml:27: llm.extra_body cannot set `model`: that is set by qaflow itself
    configs/run.yaml:27: llm.extra_body.top_k holds a number that JSON does not have
    configs/run.yaml:28: llm.structured_output must be one of response_format, structured_outputs, none, not "guided_json"
    configs/run.yaml:29: shutdown.grace must be a duration such as 90s, 5m or 2h, or a number of seconds, not -5
    configs/run.yaml:30: max_failure_ratio must be a number from 0 to 1, not 1.5
    configs/run.yaml:31: store.cache_mb must be a whole number from 8 to 65536, not 1
    configs/run.yaml:31: store.lease_seconds must be at least 5s
    configs/run.yaml:32: telemetry.gpu.held must be a number of GPUs from 1 to 256, not 0
    configs/run.yaml:32: telemetry.prometheus must be off, or an address to listen at, as in 127.0.0.1:9464 or 0.0.0.0:9464, not 9464
    configs/run.yaml:33: budget.gpu_hours must be a number of GPU-hours above 0, not -1
    configs/run.yaml:33: budget.warn_at must be a number from 0 to 1, not 2
    configs/run.yaml:34: unknown key `unknown`: known are: pipeline, input, manifest, state, out, environment, run_id, max_failure_ratio, shutdown, export, store, slurm, telemetry, budget, gate, llm
    37 faults: nothing was started
    "#);
}

#[test]
fn sections_of_the_wrong_form() {
    let run = "pipeline: [a]\ninput: {a: 1}\nllm: [1]\nshutdown: 5\nstore: x\n";
    let other = "pipeline: ../pipelines/demo.yaml\nllm:\n  endpoints: {a: 1}\n  extra_body: 1\n  model: [a]\n";
    let empty = "pipeline: ../pipelines/demo.yaml\nllm: {endpoints: [], provider: local}\n";
    let none = "pipeline: ../pipelines/demo.yaml\nllm: {endpoints: []}\n";
    let all = [run, other, empty, none].map(|run| Folder::new(run, PIPELINE).faults(&[]));
    insta::assert_snapshot!(all.join("\n\n"), @r#"
    configs/run.yaml:1: pipeline must be text, not a list
    configs/run.yaml:2: input must be a list of texts, not a map
    configs/run.yaml:3: llm must be a map of keys and values, not a list
    configs/run.yaml:4: shutdown must be a map of keys and values, not a whole number
    configs/run.yaml:5: store must be a map of keys and values, not text
    5 faults: nothing was started

    configs/run.yaml:3: llm.endpoints must be a list of maps, as in `endpoints: [{base_url: "http://localhost:8000/v1"}]`, not a map
    configs/run.yaml:4: llm.extra_body must be a map, not 1
    configs/run.yaml:5: llm.model must be text, not a list
    3 faults: nothing was started

    configs/run.yaml:2: llm.provider must be one of openai, embedded, not "local"
    1 fault: nothing was started

    configs/run.yaml:2: llm.endpoints is empty: name one server at least, as in `endpoints: [{base_url: "http://localhost:8000/v1"}]`
    configs/run.yaml:2: llm.model is missing: the model's name as the servers know it
    2 faults: nothing was started
    "#);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = Folder::new(RUN.replace("demo", "missing"), PIPELINE);
    let mut all = vec![folder.faults(&[])];
    all.push(folder.faults(&["pipeline=/nowhere/p.yaml"]));
    all.push(Folder::new(RUN.replace("demo.yaml", ""), PIPELINE).faults(&[]));
    all.push(Folder::new(RUN.replace("..", "${NONE}"), PIPELINE).faults(&[]));
    all.push(Folder::new(RUN, b"name: \xff").faults(&[]));
    all.push(Folder::new(RUN, vec![b' '; yaml::MAX_BYTES + 1]).faults(&[]));
    all.push(Folder::new("", PIPELINE).faults(&[]));
    let missing = load(Path::new("no/such.yaml"), &["llm.model".to_owned()], &Fake).expect_err("missing");
    all.push(missing.to_string());
    insta::assert_snapshot!(all.join("\n\n"), @r#"
    configs/run.yaml:1: cannot read pipelines/missing.yaml: there is no such file
    1 fault: nothing was started

    --set: cannot read /nowhere/p.yaml: there is no such file
    1 fault: nothing was started

    configs/run.yaml:1: cannot read pipelines: it is a folder, not a file
    1 fault: nothing was started

    configs/run.yaml:1: the environment variable `NONE` is not set: set it, or give a default as in `${NONE:-default}`
    1 fault: nothing was started

    pipelines/demo.yaml:1: this line is not UTF-8 text: save the file as UTF-8
    1 fault: nothing was started

    configs/run.yaml:1: cannot read pipelines/demo.yaml: it has 1048577 bytes; a configuration has at most 1048576
    1 fault: nothing was started

    configs/run.yaml: the file is empty: it must hold keys and values
    1 fault: nothing was started

    --set llm.model: it must be path.to.key=value
    no/such.yaml: cannot read no/such.yaml: there is no such file
    2 faults: nothing was started
    "#);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Any text in either file is read or refused with a fault, never a panic.
    #[test]
    fn any_text_is_read_or_refused(
        run in "(pipeline: ../pipelines/demo.yaml\n)?((llm|endpoints|model|state|store| [a-c]|  - ):? ?([a-z0-9.${}\\[\\]]{0,6})\n){0,8}",
        pipeline in "stages:\n((  [a-c]:|   kind:|   input:) ?(chunk|extract|source|[a-c\\[\\]{}]{0,4})\n){0,10}",
    ) {
        match Folder::new(&run, &pipeline).load(&[]) {
            Ok(loaded) => prop_assert!(!loaded.pipeline.stages.is_empty()),
            Err(error) => prop_assert!(!error.faults.is_empty()),
        }
    }

    #[test]
    fn any_override_is_taken_or_refused(text in "(llm|stages|input|store|pipeline)[.a-z0-9]{0,10}=?[ -~]{0,10}") {
        if let Err(error) = Folder::new(RUN, PIPELINE).load(&[&text]) {
            prop_assert!(!error.faults.is_empty());
        }
    }
}
