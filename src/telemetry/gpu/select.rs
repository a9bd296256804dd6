//! Which of a machine's GPUs are the job's: what CUDA and Slurm say in the environment.

/// What the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing: all that there are.
    All,
    /// `CUDA_VISIBLE_DEVICES`: as CUDA reads it, what stands behind the first that is not there does not count.
    Cuda(Vec<String>),
    /// `SLURM_STEP_GPUS` or `SLURM_JOB_GPUS`: indices on the node. Where the cluster hides the others from the job,
    /// the library counts from 0 again, and all that it shows are the job's.
    Slurm(Vec<u32>),
}

impl Wanted {
    /// From the variables that `lookup` finds.
    pub(super) fn of(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        if let Some(list) = lookup("CUDA_VISIBLE_DEVICES") {
            let entries = list.split(',').map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty());
            return Self::Cuda(entries.collect());
        }
        for name in ["SLURM_STEP_GPUS", "SLURM_JOB_GPUS"] {
            let indices = lookup(name).and_then(|list| indices(&list));
            if let Some(indices) = indices.filter(|indices| !indices.is_empty()) {
                return Self::Slurm(indices);
            }
        }
        Self::All
    }
}

/// `0,2`, and `0-3` as some versions of Slurm write it.
fn indices(list: &str) -> Option<Vec<u32>> {
    let mut indices = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
                // No machine has more GPUs than that.
                indices.extend(first..=last.min(first.saturating_add(1_024)));
            }
            None => indices.push(part.parse().ok()?),
        }
    }
    Some(indices)
}

/// Indices of the job's GPUs among `uuids`, the machine's in the library's order, each once.
pub(super) fn select(wanted: &Wanted, uuids: &[String]) -> Vec<usize> {
    let all = || (0..uuids.len()).collect();
    let mut chosen = Vec::new();
    match wanted {
        Wanted::All => return all(),
        Wanted::Slurm(indices) => {
            if indices.iter().any(|at| *at as usize >= uuids.len()) {
                return all();
            }
            chosen.extend(indices.iter().map(|at| *at as usize));
        }
        Wanted::Cuda(entries) => {
            for entry in entries {
                let Some(at) = find(entry, uuids) else { break };
                chosen.push(at);
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    chosen.retain(|at| seen.insert(*at));
    chosen
}

/// The GPU that an entry of `CUDA_VISIBLE_DEVICES` means: an index, a UUID, the unique beginning of one, or a slice
/// of a GPU as older drivers name it (`MIG-GPU-…/1/0`), which counts as the GPU.
fn find(entry: &str, uuids: &[String]) -> Option<usize> {
    if let Ok(at) = entry.parse::<usize>() {
        return (at < uuids.len()).then_some(at);
    }
    let uuid = entry.strip_prefix("MIG-").map_or(entry, |rest| rest.split('/').next().unwrap_or(rest));
    if !uuid.starts_with("GPU-") {
        return None;
    }
    let mut matching = (0..uuids.len()).filter(|at| uuids[*at].starts_with(uuid));
    let first = matching.next()?;
    (matching.next().is_none()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)]) -> Vec<usize> {
        let uuids: Vec<String> = ["GPU-aa11", "GPU-aa22", "GPU-bb33"].map(str::to_owned).into();
        let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        select(&Wanted::of(&lookup), &uuids)
    }

    #[test]
    fn the_environment_says_which() {
        let cuda = |value: &'static str| chosen(&[("CUDA_VISIBLE_DEVICES", value)]);
        assert_eq!(chosen(&[]), [0, 1, 2]);
        assert_eq!(cuda("2,0"), [2, 0]);
        assert_eq!(cuda(" 1 , 1"), [1]);
        assert_eq!(cuda("GPU-bb,GPU-aa22"), [2, 1]);
        assert_eq!(cuda("MIG-GPU-bb33/1/0"), [2]);
        for none in ["", "-1", "NoDevFiles", "GPU-aa", "GPU-zz", "7", "-1,0"] {
            assert_eq!(cuda(none), [0_usize; 0], "{none}");
        }
        // As CUDA does: nothing behind the first that is not there.
        assert_eq!(cuda("0,9,1"), [0]);
        assert_eq!(chosen(&[("SLURM_JOB_GPUS", "0,2")]), [0, 2]);
        assert_eq!(chosen(&[("SLURM_JOB_GPUS", "0-1")]), [0, 1]);
        assert_eq!(chosen(&[("SLURM_STEP_GPUS", "1"), ("SLURM_JOB_GPUS", "0,1")]), [1]);
        // The cluster hides the others: GPU 6 of the node is one of the three that are shown.
        assert_eq!(chosen(&[("SLURM_JOB_GPUS", "5,6,7")]), [0, 1, 2]);
        for odd in ["", "all", "2-x", "99999999999"] {
            assert_eq!(chosen(&[("SLURM_JOB_GPUS", odd)]), [0, 1, 2], "{odd}");
        }
        assert_eq!(chosen(&[("CUDA_VISIBLE_DEVICES", "1"), ("SLURM_JOB_GPUS", "0")]), [1]);
    }
}
