//! Both files together: what is read from them, and what is said of their faults.

use std::env::VarError;
use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

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
    insta::assert_snapshot!(run, @"");
}

#[test]
fn every_value_is_read() {
    let run = r#"
pipeline: ../pipelines/demo.yaml
manifest: ../data/list.txt
state: ${NONE:-/scratch}/state
out: ../out
environment: cluster
run_id: batch-50
llm:
  provider: openai
  endpoints:
    - base_url: "${VLLM_BASE_URL:-http://localhost:8000/v1}/"
      weight: 3
    - {base_url: "https://gateway.example.org", api_key_env: OTHER_KEY}
  model: meta-llama/Llama-3.1-70B-Instruct
  api_key_env: LLAMA_API_KEY
  weights: ../models/m.gguf
  threads: 0
  concurrency: ${SLOTS}
  requests_per_minute: 600
  tokens_per_minute: null
  request_timeout_seconds: 90.5
  connect_timeout_seconds: 5s
  retry: {initial_ms: 10, max_ms: 1000}
  outage: {give_up_after: never}
  extra_body: {chat_template_kwargs: {enable_thinking: false}, top_k: 20, list: [1.5, x, null]}
  structured_output: structured_outputs
shutdown: {grace: 2m}
max_failure_ratio: 0
store: {cache_mb: 128, lease_seconds: 30}
telemetry: {prometheus: "127.0.0.1:9464"}
"#;
    let folder = Folder::new(run, PIPELINE);
    let loaded = folder.load(&[]).expect("sound");
    let shown = format!("{:#?}\n{}", loaded.run, loaded.warnings.iter().map(ToString::to_string).collect::<String>())
        .replace(&format!("{}/", folder.0.path().display()), "");
    insta::assert_snapshot!(shown, @"");
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
    let llm = Folder::new(run, PIPELINE).load(&[]).expect("sound").run.llm;
    assert_eq!((llm.provider, llm.model.as_str(), llm.endpoints.len()), (Provider::Embedded, EMBEDDED_MODEL, 0));
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
    insta::assert_snapshot!(faults, @"");
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
telemetry: {prometheus: 9464}
unknown: 1
";
    let faults = Folder::new(run, PIPELINE).faults(&[]);
    assert!(!faults.contains("sk-") && !faults.contains("pw"), "a secret is shown: {faults}");
    insta::assert_snapshot!(faults, @"");
}

#[test]
fn sections_of_the_wrong_form() {
    let run = "pipeline: [a]\ninput: {a: 1}\nllm: [1]\nshutdown: 5\nstore: x\n";
    let other = "pipeline: ../pipelines/demo.yaml\nllm:\n  endpoints: {a: 1}\n  extra_body: 1\n  model: [a]\n";
    let empty = "pipeline: ../pipelines/demo.yaml\nllm: {endpoints: [], provider: local}\n";
    let none = "pipeline: ../pipelines/demo.yaml\nllm: {endpoints: []}\n";
    let all = [run, other, empty, none].map(|run| Folder::new(run, PIPELINE).faults(&[]));
    insta::assert_snapshot!(all.join("\n\n"), @"");
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
    insta::assert_snapshot!(all.join("\n\n"), @"");
}

#[test]
fn links_are_not_tidied_into_another_folder() {
    let folder = Folder::new(RUN, PIPELINE);
    let root = folder.0.path();
    fs::create_dir_all(root.join("elsewhere/deep")).expect("folder");
    std::os::unix::fs::symlink(root.join("elsewhere/deep"), root.join("link")).expect("link");
    assert_eq!(tidy(&root.join("configs/../pipelines/demo.yaml")), root.join("pipelines/demo.yaml"));
    let through = root.join("link/../pipelines/demo.yaml");
    assert_eq!(tidy(&through), through);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

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
