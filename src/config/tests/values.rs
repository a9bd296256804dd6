//! Every value that a run file may hold, read.

use super::*;

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
  retry: {initial_ms: 10, max_ms: 1000, timeouts: 2}
  outage: {give_up_after: never}
  extra_body: {chat_template_kwargs: {enable_thinking: false}, top_k: 20, list: [1.5, x, null]}
  structured_output: structured_outputs
shutdown: {grace: 2m}
max_failure_ratio: 0
store: {cache_mb: 128, lease_seconds: 30}
telemetry: {prometheus: "127.0.0.1:9464", gpu: {held: 4}}
budget: {gpu_hours: 1000, warn_at: 0.8, overhead: 0.2}
"#;
    let folder = Folder::new(run, PIPELINE);
    let loaded = folder.load(&[]).expect("sound");
    let shown = format!("{:#?}\n{}", loaded.run, loaded.warnings.iter().map(ToString::to_string).collect::<String>())
        .replace(&format!("{}/", folder.0.path().display()), "");
    insta::assert_snapshot!(shown, @r#"
    RunConfig {
        pipeline: "pipelines/demo.yaml",
        input: [],
        manifest: Some(
            "data/list.txt",
        ),
        state: "/scratch/state",
        out: "out",
        environment: Cluster,
        run_id: Some(
            "batch-50",
        ),
        llm: LlmConfig {
            provider: Openai,
            endpoints: [
                Endpoint {
                    base_url: "http://gpu1:8000/v1",
                    weight: 3,
                    api_key_env: None,
                },
                Endpoint {
                    base_url: "https://gateway.example.org",
                    weight: 1,
                    api_key_env: Some(
                        "OTHER_KEY",
                    ),
                },
            ],
            model: "meta-llama/Llama-3.1-70B-Instruct",
            api_key_env: Some(
                "LLAMA_API_KEY",
            ),
            weights: Some(
                "models/m.gguf",
            ),
            threads: 0,
            concurrency: Fixed(
                32,
            ),
            requests_per_minute: Some(
                600,
            ),
            tokens_per_minute: None,
            request_timeout: Some(
                90.5s,
            ),
            connect_timeout: 5s,
            wait_for_server: 3s,
            retry_initial: 10ms,
            retry_max: 1s,
            retry_timeouts: Some(
                2,
            ),
            give_up_after: None,
            extra_body: {
                "chat_template_kwargs": Object {
                    "enable_thinking": Bool(false),
                },
                "list": Array [
                    Number(1.5),
                    String("x"),
                    Null,
                ],
                "top_k": Number(20),
            },
            structured_output: StructuredOutputs,
        },
        shutdown_grace: 120s,
        max_failure_ratio: 0.0,
        export: ExportOptions {
            formats: {
                Jsonl,
            },
            splits: None,
            passage: false,
        },
        store: StoreConfig {
            cache_mb: 128,
            lease: 30s,
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
            gpu: Held(
                4,
            ),
        },
        budget: Some(
            BudgetConfig {
                gpu_hours: 1000.0,
                warn_at: 0.8,
                stop_at: 1.0,
                overhead: 0.2,
            },
        ),
        targets: TelemetryTargets {
            prometheus: Some(
                127.0.0.1:9464,
            ),
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
    configs/run.yaml:13: llm.endpoints.1.base_url does not end in /v1, as it does with most servers: check it
    "#);
}
