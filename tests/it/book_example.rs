//! The example of a benchmark book below `docs/`: it is what this program writes, records and report alike.

use std::path::Path;

use crate::support::{Place, expect, output, qaflow};

const EXAMPLE: &str = "docs/examples/benchmarks";

#[test]
fn the_example_is_what_the_program_makes_of_its_records() {
    let place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = place.path("BENCHMARKS.md").display().to_string();
    let report = ["bench", "report", "configs/quickstart.yaml", "--dir", EXAMPLE, "--out", &page];
    let written = output(&mut qaflow(root, &report));
    let said = String::from_utf8_lossy(&written.stderr).into_owned();
    assert!(written.status.success() && !said.contains("WARN"), "{said}");
    for name in ["BENCHMARKS.md", "report.html"] {
        let there = std::fs::read_to_string(root.join(EXAMPLE).join(name)).unwrap();
        let now = std::fs::read_to_string(place.path(name)).unwrap();
        assert!(
            there == now,
            "{EXAMPLE}/{name} is not what its records give: qaflow bench report configs/quickstart.yaml --dir {EXAMPLE} \
             --out {EXAMPLE}/BENCHMARKS.md\n{now}"
        );
    }
    let mut records = 0;
    for file in std::fs::read_dir(root.join(EXAMPLE)).unwrap().flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "yaml") {
            let id = file.file_stem().unwrap().to_string_lossy().into_owned();
            let now = expect(&mut qaflow(root, &["bench", "show", &id, "--dir", EXAMPLE]), 0);
            let there = std::fs::read_to_string(&file).unwrap();
            assert_eq!(there.trim_end(), now.trim_end(), "{} is not as records are written", file.display());
            records += 1;
        }
    }
    assert!(records > 0);
}
