//! The batch script, made from its template and the configuration.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{ServerConfig, SlurmConfig};

const TEMPLATE: &str = include_str!("job.sh");
const SERVER: &str = include_str!("server.sh");
const SERVER_END: &str = "
# The server has nothing left to do.
kill -TERM \"$keeper\" 2>/dev/null
wait \"$keeper\" 2>/dev/null
rm -f \"$server_up\"
";
/// Between the end of the grace time and the time limit: for the commit, the export and the requeue.
const MARGIN: Duration = Duration::from_secs(60);

/// All that the script says.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) slurm: SlurmConfig,
    /// `shutdown.grace`.
    pub(super) grace: Duration,
    /// The run file's name without its ending.
    pub(super) name: String,
    pub(super) config: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) program: String,
    pub(super) set: Vec<String>,
    pub(super) run: Vec<String>,
}

impl Job {
    /// The folder that the log goes to, if it is named and holds none of sbatch's patterns.
    pub(super) fn log_folder(&self) -> Option<PathBuf> {
        let folder = Path::new(&self.slurm.log).parent().filter(|p| !p.as_os_str().is_empty())?;
        (!folder.to_string_lossy().contains('%')).then(|| self.directory.join(folder))
    }

    fn warn_seconds(&self) -> u64 {
        self.slurm.warn_before.unwrap_or(self.grace + MARGIN).as_secs().clamp(1, 65_535)
    }

    fn directives(&self) -> String {
        let s = &self.slurm;
        let mut lines = Vec::new();
        let mut add = |name: &str, value: &str| lines.push(format!("#SBATCH --{name}={}", directive(value)));
        add("job-name", &s.job_name.clone().unwrap_or_else(|| format!("qaflow-{}", self.name)));
        let optional = [
            ("partition", &s.partition),
            ("account", &s.account),
            ("qos", &s.qos),
            ("constraint", &s.constraint),
            ("gres", &s.gres),
            ("mem", &s.memory),
            ("time", &s.time),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                add(name, value);
            }
        }
        add("nodes", "1");
        add("ntasks", "1");
        add("cpus-per-task", &s.cpus.to_string());
        if s.shards > 1 {
            let at_once = if s.at_once > 0 { format!("%{}", s.at_once) } else { String::new() };
            add("array", &format!("0-{}{at_once}", s.shards - 1));
        }
        add("chdir", &self.directory.display().to_string());
        add("output", &if s.shards > 1 { s.log.replace("%j", "%A_%a") } else { s.log.clone() });
        add("signal", &format!("B:USR1@{}", self.warn_seconds()));
        lines.push("#SBATCH --requeue".into());
        lines.push("#SBATCH --open-mode=append".into());
        lines.extend(s.options.iter().map(|option| format!("#SBATCH {option}")));
        lines.join("\n")
    }

    fn command(&self) -> String {
        let mut words = Vec::new();
        if !self.slurm.container.is_empty() {
            words.push(self.slurm.container.clone());
        }
        words.push(quoted(&self.program));
        words.push("run".into());
        words.push(quoted(&self.config.display().to_string()));
        if self.slurm.shards > 1 {
            words.push("--shard auto".into());
        }
        for one in &self.set {
            words.push(format!("--set {}", quoted(one)));
        }
        words.extend(self.run.iter().map(|word| quoted(word)));
        words.join(" ")
    }
}

/// The script.
pub(super) fn render(job: &Job) -> String {
    let s = &job.slurm;
    let mut modules = String::new();
    for module in &s.modules {
        let _ = writeln!(modules, "module load {} || exit 1", quoted(module));
    }
    let mut setup = String::new();
    for line in &s.setup {
        let _ = writeln!(setup, "{line}");
    }
    let (server, server_end) = match &s.server {
        Some(server) => (render_server(server), SERVER_END.to_owned()),
        None => (String::new(), String::new()),
    };
    // What a value holds is not looked at again: a value with a placeholder's name in it stays as it is.
    fill(
        TEMPLATE,
        &[
            ("DIRECTIVES", job.directives()),
            ("VERSION", env!("CARGO_PKG_VERSION").to_owned()),
            ("CONFIG", job.config.display().to_string().replace('\n', " ")),
            ("WARN", job.warn_seconds().to_string()),
            ("RESTARTS", s.restarts.to_string()),
            ("DIRECTORY", quoted(&job.directory.display().to_string())),
            ("MODULES", modules),
            ("SETUP", setup),
            ("SERVER", server),
            ("COMMAND", job.command()),
            ("SERVER_END", server_end),
        ],
    )
}

fn render_server(server: &ServerConfig) -> String {
    fill(
        SERVER,
        &[
            ("URL_VARIABLE", server.url_variable.clone()),
            ("HEALTH", quoted(&server.health)),
            ("SERVER_COMMAND", quoted(&server.command)),
            ("SERVER_RESTARTS", server.restarts.to_string()),
            ("START_TIMEOUT", server.start_timeout.as_secs().max(1).to_string()),
            ("PATIENCE", server.patience.as_secs().max(1).to_string()),
        ],
    )
}

/// Puts values in the places of `@@NAME@@`, in one pass.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(at) = rest.find("@@") {
        text.push_str(&rest[..at]);
        let behind = &rest[at + 2..];
        let found = behind
            .find("@@")
            .and_then(|end| values.iter().find(|(name, _)| *name == &behind[..end]).map(|(_, value)| (end, value)));
        if let Some((end, value)) = found {
            text.push_str(value);
            rest = &behind[end + 2..];
        } else {
            text.push_str("@@");
            rest = behind;
        }
    }
    text.push_str(rest);
    text
}

/// A value of a directive, quoted as sbatch reads it.
fn directive(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:%@,+=&|[]()*!".contains(c);
    if value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', " "))
    }
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=%@,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn job() -> Job {
        Job {
            slurm: SlurmConfig {
                job_name: None,
                partition: Some("spare".into()),
                account: None,
                qos: None,
                constraint: Some("a100&ib".into()),
                gres: Some("gpu:a100:1".into()),
                cpus: 8,
                memory: Some("64G".into()),
                time: Some("24:00:00".into()),
                options: vec!["--exclude=node7".into()],
                log: "logs/%x-%j.log".into(),
                modules: vec!["cuda/12".into(), "an odd's name".into()],
                setup: vec!["export HF_HOME=/scratch/hf".into()],
                container: "apptainer exec --nv /images/q.sif".into(),
                program: None,
                warn_before: None,
                restarts: 5,
                shards: 1,
                at_once: 0,
                server: None,
            },
            grace: Duration::from_secs(25),
            name: "medicaid".into(),
            config: "/data/my runs/medicaid.yaml".into(),
            directory: "/data/my runs".into(),
            program: "/opt/qaflow".into(),
            set: vec!["run_id=it's".into()],
            run: vec!["--limit".into(), "5".into()],
        }
    }

    fn with_server() -> Job {
        let mut job = job();
        job.slurm.server = Some(ServerConfig {
            command: "vllm serve 'some model' --port $QAFLOW_SERVER_PORT".into(),
            health: "/health".into(),
            url_variable: "VLLM_BASE_URL".into(),
            start_timeout: Duration::from_secs(1800),
            patience: Duration::from_secs(60),
            restarts: 20,
        });
        job
    }

    #[test]
    fn directives_and_command() {
        insta::assert_snapshot!(job().directives(), @r#"
        #SBATCH --job-name=qaflow-medicaid
        #SBATCH --partition=spare
        #SBATCH --constraint=a100&ib
        #SBATCH --gres=gpu:a100:1
        #SBATCH --mem=64G
        #SBATCH --time=24:00:00
        #SBATCH --nodes=1
        #SBATCH --ntasks=1
        #SBATCH --cpus-per-task=8
        #SBATCH --chdir="/data/my runs"
        #SBATCH --output=logs/%x-%j.log
        #SBATCH --signal=B:USR1@85
        #SBATCH --requeue
        #SBATCH --open-mode=append
        #SBATCH --exclude=node7
        "#);
        insta::assert_snapshot!(job().command(), @r"apptainer exec --nv /images/q.sif /opt/qaflow run '/data/my runs/medicaid.yaml' --set 'run_id=it'\''s' --limit 5");
        let mut array = job();
        (array.slurm.shards, array.slurm.at_once) = (8, 4);
        assert!(array.directives().contains("--array=0-7%4\n") && array.directives().contains("logs/%x-%A_%a.log"));
        assert!(array.command().contains("--shard auto"));
        assert_eq!(job().log_folder(), Some("/data/my runs/logs".into()));
    }

    #[test]
    fn nothing_is_left_unfilled_and_values_are_not_looked_at_again() {
        for job in [job(), with_server()] {
            assert!(!render(&job).contains("@@"), "{}", render(&job));
        }
        assert_eq!(fill("a @@X@@ b @@ c @@Y@@", &[("X", "@@Y@@".into()), ("Y", "y".into())]), "a @@Y@@ b @@ c y");
    }

    #[test]
    fn the_shell_and_its_checker_accept_the_scripts() {
        for job in [job(), with_server()] {
            let script = render(&job);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &script).unwrap();
            let bash = Command::new("bash").arg("-n").arg(file.path()).output().unwrap();
            assert!(bash.status.success(), "{}", String::from_utf8_lossy(&bash.stderr));
            // The checker is not everywhere; CI has it.
            match Command::new("shellcheck").arg(file.path()).stdin(Stdio::null()).output() {
                Ok(checked) => {
                    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
                }
                Err(_) => assert!(std::env::var_os("CI").is_none(), "shellcheck is missing"),
            }
        }
    }
}
