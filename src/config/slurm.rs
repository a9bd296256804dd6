//! The `slurm` section: what `qaflow slurm script` asks the cluster for. Nothing here changes results.

use std::time::Duration;

use super::forms::{duration, optional_duration};
use super::run::small;
use crate::model::params::Reader;

/// A batch job, as the configuration describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct SlurmConfig {
    /// The job's name; derived from the run file's name if `None`.
    pub job_name: Option<String>,
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--constraint`.
    pub constraint: Option<String>,
    /// `--gres`, such as `gpu:a100:1`.
    pub gres: Option<String>,
    /// `--cpus-per-task`.
    pub cpus: u32,
    /// `--mem`, such as `64G`.
    pub memory: Option<String>,
    /// `--time`, such as `24:00:00`.
    pub time: Option<String>,
    /// Any further options of sbatch, each written as it is.
    pub options: Vec<String>,
    /// Where the job's log goes; sbatch's patterns hold.
    pub log: String,
    /// Modules that are loaded.
    pub modules: Vec<String>,
    /// Lines of shell before anything starts.
    pub setup: Vec<String>,
    /// What stands before the program, such as a container's `exec`.
    pub container: String,
    /// The program on the node; this very file if `None`.
    pub program: Option<String>,
    /// How long before the time limit the job is told.
    pub warn_before: Option<Duration>,
    /// How often the run is started again within a job that keeps its nodes, after it was killed there.
    pub restarts: u32,
    /// Into how many shards the corpus is cut; one job of an array for each.
    pub shards: u32,
    /// How many of the array's jobs run at once; 0: as many as the cluster lets.
    pub at_once: u32,
    /// The model server in the job; `None`: it is elsewhere.
    pub server: Option<ServerConfig>,
}

/// A model server that a job starts, watches and ends.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// The command line; `$QAFLOW_SERVER_PORT` in it is the port to listen at.
    pub command: String,
    /// The path that answers 200 once it is up.
    pub health: String,
    /// The variable that is set to its base URL, for the configuration to use.
    pub url_variable: String,
    /// How long it may take to come up.
    pub start_timeout: Duration,
    /// How long it may be unhealthy before it is started again.
    pub patience: Duration,
    /// How often it is started again.
    pub restarts: u32,
}

/// Reads the section.
pub(super) fn read_slurm(r: &mut Reader<'_>) -> SlurmConfig {
    let option = |r: &mut Reader<'_>, key: &str, default: &str, meaning: &str| {
        let value = plain(r, key, default, meaning)?;
        if value.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let message = format!("{} must be one word: it becomes an option of sbatch", r.path_of(key));
            r.fault(key, message);
            return None;
        }
        Some(value)
    };
    let cluster = "the cluster's default";
    let given = r.has("server");
    SlurmConfig {
        job_name: option(r, "job_name", "qaflow-NAME, NAME being this file's", "the job's name"),
        partition: option(r, "partition", cluster, "sbatch --partition"),
        account: option(r, "account", cluster, "sbatch --account"),
        qos: option(r, "qos", cluster, "sbatch --qos"),
        constraint: option(r, "constraint", "none", "sbatch --constraint"),
        gres: option(r, "gres", "none", "sbatch --gres, as in gpu:a100:1"),
        cpus: small(r.int("cpus", 4, 1..=1024, "sbatch --cpus-per-task")),
        memory: option(r, "memory", cluster, "sbatch --mem, as in 64G"),
        time: option(r, "time", "the partition's", "sbatch --time, in quotes, as in \"24:00:00\""),
        options: lines(r, "options", "further options of sbatch, each as it is to stand, as in --exclude=node7"),
        log: plain(r, "log", "slurm-%x-%j.log", "the job's log; sbatch's patterns, %A_%a in an array")
            .unwrap_or_else(|| "slurm-%x-%j.log".into()),
        modules: lines(r, "modules", "environment modules that the job loads"),
        setup: lines(r, "setup", "lines of shell that the job runs before anything is started"),
        container: plain(
            r,
            "container",
            "none",
            "what stands before the program, as in `apptainer exec --nv /images/qaflow.sif`",
        )
        .unwrap_or_default(),
        program: plain(r, "program", "the file of the program that writes the script", "qaflow on the node"),
        warn_before: optional_duration(
            r,
            "warn_before",
            "shutdown.grace and a minute",
            Duration::from_secs(1),
            "how long before the time limit the job stops taking new work (sbatch --signal=B:USR1@…)",
        ),
        restarts: small(r.int(
            "restarts",
            5,
            0..=1000,
            "how often the run is started again within a job after something killed it there",
        )),
        shards: small(r.int(
            "shards",
            1,
            1..=100_000,
            "into how many shards the corpus is cut, one job of an array each",
        )),
        at_once: small(r.int("at_once", 0, 0..=100_000, "how many jobs of the array run at once; 0: no limit")),
        server: {
            let server = r.section("server", |r| {
                let command = plain(
                    r,
                    "command",
                    "none: the server is elsewhere",
                    "the model server that the job starts, as in `vllm serve MODEL --port $QAFLOW_SERVER_PORT`",
                );
                let health = plain(r, "health", "/health", "the path that answers 200 once the server is up")
                    .unwrap_or_else(|| "/health".into());
                if !health.starts_with('/') {
                    r.fault("health", "slurm.server.health must be a path, beginning with `/`");
                }
                let url_variable = plain(
                    r,
                    "url_variable",
                    "VLLM_BASE_URL",
                    "the variable that the job sets to the server's base URL, for llm.endpoints to use",
                )
                .unwrap_or_else(|| "VLLM_BASE_URL".into());
                if !is_variable(&url_variable) {
                    r.fault("url_variable", "slurm.server.url_variable must be the name of a variable");
                }
                let second = Duration::from_secs(1);
                ServerConfig {
                    command: command.unwrap_or_default(),
                    health,
                    url_variable,
                    start_timeout: duration(
                        r,
                        "start_timeout",
                        second * 1800,
                        second,
                        "how long it may take to come up",
                    ),
                    patience: duration(
                        r,
                        "patience",
                        second * 60,
                        second,
                        "how long it may answer nothing before it is started again",
                    ),
                    restarts: small(r.int("restarts", 20, 0..=100_000, "how often it is started again")),
                }
            });
            if given && server.command.is_empty() {
                r.fault("server", "slurm.server.command is missing: the command line that starts the server");
            }
            (!server.command.is_empty()).then_some(server)
        },
    }
}

/// A text without line breaks.
fn plain(r: &mut Reader<'_>, key: &str, default: &str, meaning: &str) -> Option<String> {
    let value = r.optional_text(key, default, meaning)?;
    if value.trim().is_empty() || value.contains(['\n', '\r', '\0']) {
        let message = format!("{} must be one line of text", r.path_of(key));
        r.fault(key, message);
        return None;
    }
    Some(value)
}

/// A list of lines.
fn lines(r: &mut Reader<'_>, key: &str, meaning: &str) -> Vec<String> {
    let texts = r.texts(key, &[], meaning);
    if texts.iter().any(|text| text.trim().is_empty() || text.contains(['\n', '\r', '\0'])) {
        let message = format!("{} must hold lines of text", r.path_of(key));
        r.fault(key, message);
        return Vec::new();
    }
    texts
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
