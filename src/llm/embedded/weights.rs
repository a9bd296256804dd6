//! The embedded model's weights as a file: its name, its place, its hash.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::model::ids::to_hex;

/// The file's name.
pub const WEIGHTS_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// SHA-256 of the files that the embedded model was tested with, as `sha256sum` prints it. Another quantiser's file
/// of the same name would give other questions, so it is not taken for the same model.
pub const KNOWN_SHA256: &[&str] = &["b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"];

/// Where the weights are looked for and put: in `$QAFLOW_MODEL_DIR`, else in `qaflow/models` below `$XDG_CACHE_HOME`,
/// else below `~/.cache`, else below `.cache` in the current folder.
pub fn default_weights_path() -> PathBuf {
    place(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn place(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let folder = variable("QAFLOW_MODEL_DIR").unwrap_or_else(|| {
        // A relative cache folder is to be ignored (XDG base directory specification).
        let cache = variable("XDG_CACHE_HOME").filter(|cache| cache.is_absolute());
        cache.unwrap_or_else(|| variable("HOME").unwrap_or_default().join(".cache")).join("qaflow/models")
    });
    folder.join(WEIGHTS_FILE)
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// Those of opening and reading it.
pub fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(to_hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_follows_the_environment() {
        let with = |known: &[(&str, &str)]| {
            let path = place(|name| known.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value)));
            path.display().to_string().replace(WEIGHTS_FILE, "W")
        };
        assert_eq!(with(&[("QAFLOW_MODEL_DIR", "m"), ("HOME", "/h")]), "m/W");
        assert_eq!(with(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")]), "/c/qaflow/models/W");
        assert_eq!(with(&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")]), "/h/.cache/qaflow/models/W");
        assert_eq!(with(&[]), ".cache/qaflow/models/W");
    }

    #[test]
    fn hashes_are_those_of_sha256sum() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(sha256(file.path()).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
