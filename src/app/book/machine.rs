//! The machine and the program: cores, memory, commit, and what Slurm's accounting says of a job.

use std::path::Path;
use std::process::Command;

/// Bytes of main memory.
pub(super) fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Processor cores that this process may use; in a Slurm job those of the job on this node.
pub(super) fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, usize::from) as u64
}

/// The commit of the repository that holds `folder`, with `-dirty` if files differ from it; why not, if there is none.
pub(super) fn commit(folder: &Path) -> Result<String, String> {
    let run = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(args).output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(head) = run(&["rev-parse", "HEAD"]) else {
        return Err("the configuration is in no git repository with a commit".into());
    };
    let dirty = run(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.trim().is_empty());
    Ok(format!("{}{}", head.trim(), if dirty { "-dirty" } else { "" }))
}

/// What Slurm's accounting says of a job: used and held processor seconds, over all its restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Accounted {
    pub(super) used: f64,
    pub(super) held: f64,
}

/// Asks `sacct` for a job, as in `4711` or `4711_3`.
///
/// # Errors
/// Why it says nothing: no such program, no accounting, no such job.
pub(super) fn sacct(job: &str) -> Result<Accounted, String> {
    let output = Command::new("sacct")
        .args([
            "--noheader",
            "--parsable2",
            "--duplicates",
            "--format=JobID,ElapsedRaw,TotalCPU,AllocCPUS",
            "--jobs",
            job,
        ])
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "there is no sacct here".to_owned(),
            _ => format!("sacct cannot be started: {error}"),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("sacct says: {}", said.lines().next().unwrap_or("nothing").trim()));
    }
    accounted(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| format!("sacct knows no job {job}"))
}

/// Sums the lines of allocations (`4711`, not its steps `4711.batch`).
fn accounted(text: &str) -> Option<Accounted> {
    let mut sum = Accounted::default();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [job, elapsed, used, cores] = fields[..] else { continue };
        if job.contains('.') {
            continue;
        }
        sum.used += clock(used)?;
        sum.held += elapsed.parse::<f64>().ok()? * cores.parse::<f64>().ok()?;
    }
    (sum.held > 0.0).then_some(sum)
}

/// Seconds of `[DD-[HH:]]MM:SS[.mmm]`.
fn clock(text: &str) -> Option<f64> {
    let (days, rest) = text.split_once('-').map_or((0.0, text), |(days, rest)| (days.parse().unwrap_or(0.0), rest));
    let mut seconds = 0.0;
    for part in rest.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(days * 86_400.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounting_is_summed_over_restarts_without_steps() {
        let text = "4711|100|01:30.500|4\n4711.batch|100|01:30.500|4\n4711|50|1-00:00:10|4\n";
        let sum = accounted(text).unwrap();
        assert_eq!(sum, Accounted { used: 90.5 + 86_410.0, held: 600.0 });
        assert_eq!(accounted(""), None);
        assert_eq!(accounted("4711|x|y|z"), None);
        assert_eq!(clock("00:02:03"), Some(123.0));
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        assert!(cores() >= 1 && memory_bytes().unwrap() > 1 << 26);
    }

    #[test]
    fn a_folder_outside_any_repository_says_so() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(commit(dir.path()).unwrap_err(), "the configuration is in no git repository with a commit");
    }
}
