//! The layers of `docs/ARCHITECTURE.md` hold in the code: a module uses only what stands above it in the table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The layers in the order of the table: rows whose first cell is `` `name/` ``.
fn layers(root: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| rest.split_once("/` |"))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_module_uses_only_the_layers_above_it() {
    let layers = layers(&root());
    assert!(layers.len() >= 9, "the table of layers is not where the test looks: {layers:?}");
    let position: BTreeMap<&str, usize> = layers.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let mut faults = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let mut files = Vec::new();
        sources(&root().join("src").join(layer), &mut files);
        assert!(!files.is_empty(), "layer {layer} has no files");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for (n, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for (start, _) in code.match_indices("crate::") {
                    let name: String =
                        code[start + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    match position.get(name.as_str()) {
                        Some(used) if *used > at => {
                            faults.push(format!("{}:{}: {layer} uses {name}", file.display(), n + 1));
                        }
                        None if name == "cli" => {
                            faults.push(format!("{}:{}: uses the command line", file.display(), n + 1));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn crates_that_are_pinned_are_used_in_one_file_each() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    for (name, allowed) in [
        ("sled", "store/sled.rs"),
        ("bincode", "store/codec.rs"),
        ("backoff", "llm/retry.rs"),
        ("marked_yaml", "config/yaml.rs"),
        ("unpdf", "stages/extract/pdf/"),
        ("nvml_wrapper", "telemetry/gpu/nvml.rs"),
    ] {
        for file in &files {
            let text = std::fs::read_to_string(file).unwrap();
            let uses = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.match_indices(&format!("{name}::")).any(|(i, _)| {
                    // Not `super::sled::` or `crate::store::sled::`, which name our own module.
                    !code[..i].ends_with("::") && !code[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                })
            });
            assert!(
                !uses || file.to_string_lossy().contains(&format!("src/{allowed}")),
                "{} uses {name}, which only {allowed} may",
                file.display()
            );
        }
    }
}

#[test]
fn files_have_one_responsibility_and_say_so() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut faults = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        if !text.starts_with("//! ") {
            faults.push(format!("{} does not begin with what it is for", file.display()));
        }
        let lines = text.lines().count();
        if lines > 560 {
            faults.push(format!("{} has {lines} lines", file.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
