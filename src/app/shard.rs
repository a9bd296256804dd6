//! The share of a corpus that a state holds: chosen on the command line or by the Slurm array, named in the folders, and
//! recorded in the state, so that no state mixes two shares unless it is told to, and nobody overlooks one that is
//! missing or mixed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::UsageError;
use crate::sources::Shard;

/// The newest format of the record that this program reads.
const FORMAT: u32 = 1;
/// The record's name in a state's folder. It lies beside the database, so that it can be read while a run holds that.
const FILE: &str = "shard.json";

/// Which share a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardChoice {
    /// This one.
    Given(Shard),
    /// That of this task of a Slurm array.
    Auto,
}

impl ShardChoice {
    /// Reads `I/N` (I from 0) or `auto`.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        parts
            .and_then(|(i, n)| Shard::new(i, n))
            .map(Self::Given)
            .ok_or_else(|| "give it as I/N with I from 0 to N-1, as in 0/8, or as auto in a Slurm array".into())
    }

    /// The share meant.
    ///
    /// # Errors
    /// If it is to follow from a Slurm array and this process is in none, or in one whose tasks are not numbered evenly.
    pub fn resolve(self) -> anyhow::Result<Shard> {
        match self {
            Self::Given(shard) => Ok(shard),
            Self::Auto => {
                let shard = of_array(|name| std::env::var(name).ok()).map_err(UsageError)?;
                if shard.count() == 1 {
                    tracing::warn!(
                        "the Slurm array has a single task: --shard auto takes the whole corpus. To run one share of \
                         several again, name it with --shard I/N"
                    );
                }
                Ok(shard)
            }
        }
    }
}

/// The share of a task of a Slurm array: `SLURM_ARRAY_TASK_ID` counted from `SLURM_ARRAY_TASK_MIN` in steps of
/// `SLURM_ARRAY_TASK_STEP`, of `SLURM_ARRAY_TASK_COUNT`.
fn of_array(variable: impl Fn(&str) -> Option<String>) -> Result<Shard, String> {
    let read = |name: &str| -> Result<Option<u32>, String> {
        match variable(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| format!("{name} is `{text}`, which is no whole number")),
        }
    };
    let needed = |name: &str| -> Result<u32, String> {
        read(name)?.ok_or_else(|| {
            format!(
                "--shard auto takes its share from the Slurm array that it runs in, and {name} is not set: start it as a \
                 task of an array (sbatch --array=0-7), or name the share, as in --shard 0/8"
            )
        })
    };
    let (id, count) = (needed("SLURM_ARRAY_TASK_ID")?, needed("SLURM_ARRAY_TASK_COUNT")?);
    let first = read("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
    let step = read("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
    let past = id.checked_sub(first).filter(|past| past.is_multiple_of(step));
    past.and_then(|past| Shard::new(past / step, count)).ok_or_else(|| {
        format!(
            "--shard auto: task {id} is not one of {count} tasks from {first} on in steps of {step}: number the array's \
             tasks evenly, as in sbatch --array=0-7, or name the share, as in --shard 0/8"
        )
    })
}

/// `folder` with the share behind its name, as in `state/medicaid-1-of-8`; shares count from 1 there.
pub fn folder_of(folder: &Path, shard: Shard) -> PathBuf {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    folder.with_file_name(format!("{name}-{}-of-{}", shard.index() + 1, shard.count()))
}

/// The folder without the share behind its name, if that is this one.
pub fn folder_without(folder: &Path, shard: Shard) -> Option<PathBuf> {
    let name = folder.file_name()?.to_str()?;
    let name = name.strip_suffix(&format!("-{}-of-{}", shard.index() + 1, shard.count()))?;
    (!name.is_empty()).then(|| folder.with_file_name(name))
}

/// A share in words, as in `share 1 of 8 (--shard 0/8)`.
pub fn words(shard: Shard) -> String {
    format!("share {} of {} (--shard {}/{})", shard.index() + 1, shard.count(), shard.index(), shard.count())
}

/// A share in the record.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Share {
    /// From 0.
    index: u32,
    count: u32,
}

impl Share {
    fn of(shard: Shard) -> Self {
        Self { index: shard.index(), count: shard.count() }
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    #[serde(flatten)]
    share: Share,
    /// What the state was run over before, the oldest first; `None`: no share, but all it was given. Earlier programs
    /// pass it over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<Option<Share>>,
}

/// What a state was run over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The share that it holds.
    pub share: Shard,
    /// What it was run over before: it holds documents of that as well, perhaps not all. `None`: no share.
    pub before: Vec<Option<Shard>>,
}

/// The share that the state in `dir` holds; `None`: no share, but all it was given.
///
/// # Errors
/// If the record is damaged or a newer program wrote it.
pub fn recorded(dir: &Path) -> anyhow::Result<Option<Shard>> {
    Ok(held(dir)?.map(|held| held.share))
}

/// As [`recorded`], with what the state held before.
///
/// # Errors
/// As [`recorded`].
pub fn held(dir: &Path) -> anyhow::Result<Option<Held>> {
    let path = dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let damaged = || {
        format!(
            "{} is damaged: write it as {{\"format\": 1, \"index\": I, \"count\": N}} with I from 0, as the run's --shard \
             says",
            path.display()
        )
    };
    let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(damaged)?;
    let format = value["format"].as_u64().unwrap_or(0);
    if format > u64::from(FORMAT) {
        anyhow::bail!("{} has format {format}, newer than this program reads: use the newer qaflow", path.display());
    }
    let record: Record = serde_json::from_value(value).with_context(damaged)?;
    let shard = |share: Share| Shard::new(share.index, share.count).with_context(damaged);
    let before = record.before.into_iter().map(|share| share.map(shard).transpose()).collect::<Result<_, _>>()?;
    Ok(Some(Held { share: shard(record.share)?, before }))
}

/// Records the share with which a state is run; `fresh` says that nothing was run in it before.
///
/// # Errors
/// If the state was run over another share before, or over all it was given, unless `change` allows it.
pub fn settle(dir: &Path, shard: Option<Shard>, fresh: bool, change: bool) -> anyhow::Result<()> {
    let held = held(dir)?;
    let before = held.as_ref().map(|held| held.share);
    if before == shard {
        return Ok(());
    }
    if !fresh && !change {
        let name = |shard: Option<Shard>| shard.map_or_else(|| "no share, but all it is given".into(), words);
        return Err(UsageError(format!(
            "the state {} holds {}, and this run takes {}: name another state, or give --change-shard if the state is to \
             hold both",
            dir.display(),
            name(before),
            name(shard)
        ))
        .into());
    }
    let path = dir.join(FILE);
    match shard {
        Some(shard) => {
            let mut past = held.map(|held| held.before).unwrap_or_default();
            if !fresh {
                past.push(before);
                past.retain(|share| *share != Some(shard));
                past.dedup();
            }
            let before = past.into_iter().map(|share| share.map(Share::of)).collect();
            let record = Record { format: FORMAT, share: Share::of(shard), before };
            let text = format!("{}\n", serde_json::to_string(&record)?);
            crate::store::write_atomic(&path, text.as_bytes())?;
        }
        None => std::fs::remove_file(&path)
            .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .with_context(|| format!("cannot remove {}", path.display()))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(index: u32, count: u32) -> Shard {
        Shard::new(index, count).unwrap()
    }

    fn array(variables: &[(&str, &str)]) -> Result<Shard, String> {
        of_array(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn shares_are_read() {
        assert_eq!(ShardChoice::parse("0/8"), Ok(ShardChoice::Given(shard(0, 8))));
        assert_eq!(ShardChoice::parse("auto"), Ok(ShardChoice::Auto));
        for wrong in ["8/8", "1", "a/b", "-1/2", "", "0/0"] {
            assert!(ShardChoice::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_array_gives_each_task_its_share() {
        let task =
            |id| array(&[("SLURM_ARRAY_TASK_ID", id), ("SLURM_ARRAY_TASK_COUNT", "4"), ("SLURM_ARRAY_TASK_MIN", "1")]);
        assert_eq!(["1", "2", "3", "4"].map(task), [0, 1, 2, 3].map(|i| Ok(shard(i, 4))));
        assert!(task("5").unwrap_err().contains("task 5 is not one of 4"));
        assert!(task("0").unwrap_err().contains("task 0 is not one of 4"));
        let stepped = [
            ("SLURM_ARRAY_TASK_ID", "6"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
            ("SLURM_ARRAY_TASK_MIN", "2"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
        ];
        assert_eq!(array(&stepped), Ok(shard(2, 3)));
        let nowhere = array(&[]).unwrap_err();
        assert!(nowhere.contains("SLURM_ARRAY_TASK_ID is not set") && nowhere.contains("--shard 0/8"), "{nowhere}");
        let odd = array(&[("SLURM_ARRAY_TASK_ID", "x"), ("SLURM_ARRAY_TASK_COUNT", "3")]).unwrap_err();
        assert_eq!(odd, "SLURM_ARRAY_TASK_ID is `x`, which is no whole number");
    }

    #[test]
    fn folders_carry_the_share_and_give_it_back() {
        let folder = folder_of(Path::new("state/medicaid"), shard(0, 8));
        assert_eq!(folder, Path::new("state/medicaid-1-of-8"));
        assert_eq!(folder_without(&folder, shard(0, 8)), Some("state/medicaid".into()));
        assert_eq!(folder_without(&folder, shard(1, 8)), None);
        assert_eq!(folder_without(Path::new("-1-of-8"), shard(0, 8)), None);
    }

    #[test]
    fn a_state_keeps_its_share_unless_told() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Some(shard(0, 2)), Some(shard(1, 2)));
        settle(dir.path(), a, true, false).unwrap();
        settle(dir.path(), a, false, false).unwrap();
        assert_eq!(recorded(dir.path()).unwrap(), a);
        for other in [b, None] {
            let error = settle(dir.path(), other, false, false).unwrap_err().to_string();
            assert!(error.contains("holds share 1 of 2 (--shard 0/2), and this run takes"), "{error}");
        }
        settle(dir.path(), b, false, true).unwrap();
        assert_eq!(recorded(dir.path()).unwrap(), b);
        assert_eq!(held(dir.path()).unwrap().unwrap().before, [a]);
        settle(dir.path(), a, false, true).unwrap();
        settle(dir.path(), b, false, true).unwrap();
        assert_eq!(held(dir.path()).unwrap().unwrap().before, [a], "each once, and not the one that it holds");
        settle(dir.path(), None, false, true).unwrap();
        assert_eq!(recorded(dir.path()).unwrap(), None);
        assert!(settle(dir.path(), a, false, false).unwrap_err().to_string().contains("holds no share"));
        settle(dir.path(), a, false, true).unwrap();
        assert_eq!(held(dir.path()).unwrap().unwrap(), Held { share: shard(0, 2), before: vec![None] });

        std::fs::write(dir.path().join(FILE), r#"{"format": 2}"#).unwrap();
        assert!(recorded(dir.path()).unwrap_err().to_string().contains("newer than this program reads"));
        std::fs::write(dir.path().join(FILE), r#"{"format": 1, "index": 4, "count": 2}"#).unwrap();
        assert!(recorded(dir.path()).unwrap_err().to_string().contains("is damaged"));
    }
}
