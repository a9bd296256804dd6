//! The Slurm job that a run is in: where it is, and how much time it has left.

use std::process::Stdio;
use std::time::Duration;

use crate::engine::{Stop, StopReason};

/// How often Slurm is asked how much time is left: a person may change the limit.
const ASK_EVERY: Duration = Duration::from_secs(120);
/// How long Slurm may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// What is needed behind the grace time: the last commit, and a word to the scheduler.
const MARGIN: Duration = Duration::from_secs(15);

/// A job, from the environment that Slurm gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlurmJob {
    /// The number that Slurm's commands know it by.
    pub id: String,
    /// The array's number and the task within it.
    pub task: Option<(String, String)>,
    /// The node.
    pub node: Option<String>,
    /// How often it was requeued.
    pub restarts: u32,
    /// The GPUs that it was given, as Slurm numbers them.
    pub gpus: Option<String>,
}

impl SlurmJob {
    /// The job that this process is in, if any.
    pub fn here() -> Option<Self> {
        Self::from(&|name| std::env::var(name).ok())
    }

    fn from(lookup: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        Some(Self {
            id: get("SLURM_JOB_ID")?,
            task: get("SLURM_ARRAY_JOB_ID").zip(get("SLURM_ARRAY_TASK_ID")),
            node: get("SLURMD_NODENAME"),
            restarts: get("SLURM_RESTART_COUNT").and_then(|n| n.parse().ok()).unwrap_or(0),
            gpus: get("SLURM_STEP_GPUS").or_else(|| get("SLURM_JOB_GPUS")),
        })
    }

    /// How people and Slurm's commands name it: `4711` or `4711_3`.
    pub fn name(&self) -> String {
        self.task.as_ref().map_or_else(|| self.id.clone(), |(array, task)| format!("{array}_{task}"))
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        let mut text = format!("in Slurm job {}", self.name());
        if let Some(node) = &self.node {
            text = format!("{text} on {node}");
        }
        if self.restarts > 0 {
            text = format!("{text}, restart {}", self.restarts);
        }
        if let Some(gpus) = &self.gpus {
            text = format!("{text}, GPUs {gpus}");
        }
        text
    }

    /// The time that is left, as Slurm says; `None` without a limit, or if it does not say.
    pub async fn time_left(&self) -> Option<Duration> {
        // Newer releases say it in the environment, but a person may have changed it since: that is asked for first.
        let asked = tokio::process::Command::new("squeue")
            .args(["-h", "-j", &self.id, "-o", "%L"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(output)) if output.status.success() => parse_left(String::from_utf8_lossy(&output.stdout).trim()),
            _ => {
                let end: i64 = std::env::var("SLURM_JOB_END_TIME").ok()?.parse().ok()?;
                let left = end - jiff::Timestamp::now().as_second();
                Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
            }
        }
    }
}

/// Reads `D-HH:MM:SS`, `HH:MM:SS` or `MM:SS`; words such as `UNLIMITED` and `INVALID` say nothing.
fn parse_left(text: &str) -> Option<Duration> {
    let (days, clock) = text.split_once('-').unwrap_or(("0", text));
    let mut seconds: u64 = 0;
    let mut parts = 0;
    for part in clock.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
        parts += 1;
    }
    if !(2..=3).contains(&parts) {
        return None;
    }
    Some(Duration::from_secs(days.parse::<u64>().ok()?.checked_mul(86_400)?.checked_add(seconds)?))
}

/// Asks the run to stop once what is left of the job's time is no more than it takes to drain. Ends with the run.
pub async fn watch_time(job: SlurmJob, grace: Duration, stop: Stop) {
    let needed = grace + MARGIN;
    loop {
        let Some(left) = job.time_left().await else {
            tokio::time::sleep(ASK_EVERY).await;
            continue;
        };
        if left <= needed {
            stop.request(StopReason::Limit(format!(
                "{} s are left of the time limit of Slurm job {}, and stopping may take {} s (shutdown.grace and {} s)",
                left.as_secs(),
                job.name(),
                needed.as_secs(),
                MARGIN.as_secs()
            )));
            return;
        }
        tokio::time::sleep(ASK_EVERY.min(left.saturating_sub(needed))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(variables: &[(&str, &str)]) -> Option<SlurmJob> {
        SlurmJob::from(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_job_knows_where_it_is() {
        assert_eq!(job(&[]), None);
        assert_eq!(job(&[("SLURM_JOB_ID", "17")]).unwrap().describe(), "in Slurm job 17");
        let task = job(&[
            ("SLURM_JOB_ID", "20"),
            ("SLURM_ARRAY_JOB_ID", "17"),
            ("SLURM_ARRAY_TASK_ID", "3"),
            ("SLURMD_NODENAME", "n2"),
            ("SLURM_RESTART_COUNT", "2"),
            ("SLURM_JOB_GPUS", "0,1"),
        ]);
        assert_eq!(task.unwrap().describe(), "in Slurm job 17_3 on n2, restart 2, GPUs 0,1");
    }

    #[test]
    fn the_time_left_is_read_as_slurm_writes_it() {
        let seconds = |text: &str| parse_left(text).map(|left| left.as_secs());
        assert_eq!(seconds("1-02:03:04"), Some(93_784));
        assert_eq!(seconds("02:03:04"), Some(7_384));
        assert_eq!(seconds("0:59"), Some(59));
        for nothing in ["UNLIMITED", "NOT_SET", "INVALID", "", "5", "1:2:3:4"] {
            assert_eq!(seconds(nothing), None, "{nothing}");
        }
    }
}
