//! A damaged or newer state is refused or repaired, with words; never a panic, never silently empty.

use std::path::{Path, PathBuf};

use crate::support::{Place, Server, output, qaflow, run, verify};

fn finished(documents: usize) -> (Place, Server, PathBuf) {
    let place = Place::new();
    place.corpus(documents, 2);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 8);
    run(&place, &config, &[], 0);
    (place, server, config)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).map(|_| ()).unwrap();
        }
    }
}

/// A command on the state, which must end without a panic; its exit code and what it said.
fn say(place: &Place, args: &[&str]) -> (i32, String) {
    let output = output(&mut qaflow(&place.path(""), args));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let code = output.status.code();
    assert!(code.is_some(), "killed by a signal: {said}");
    assert!(!said.contains("panicked at src"), "{said}");
    (code.unwrap(), said)
}

#[test]
fn flipped_bytes_are_found_and_repaired() {
    let (place, server, config) = finished(10);
    let whole = place.results("out");
    copy(&place.path("state"), &place.path("kept"));
    let mut random = fastrand::Rng::with_seed(11);
    let (mut found, mut refused, mut harmless) = (0, 0, 0);
    for round in 0..12 {
        let _ = std::fs::remove_dir_all(place.path("state"));
        copy(&place.path("kept"), &place.path("state"));
        let database = place.path("state/db/db");
        let mut bytes = std::fs::read(&database).unwrap();
        // Where the records lie: sled's file is mostly zeros at its end.
        let used = bytes.iter().rposition(|b| *b != 0).unwrap();
        for _ in 0..3 {
            let at = random.usize(0..used);
            bytes[at] ^= 1 << random.u8(0..8);
        }
        std::fs::write(&database, bytes).unwrap();
        let (code, said) = say(&place, &["verify", "--state", "state"]);
        if code == 0 {
            harmless += 1;
            continue;
        }
        if !said.contains("FAULT") {
            assert!(said.contains("damaged") || said.contains("cannot"), "round {round}: {said}");
            refused += 1;
            continue;
        }
        found += 1;
        let (code, said) = say(&place, &["verify", "--repair", "--state", "state"]);
        assert_eq!(code, 0, "round {round}: {said}");
        run(&place, &config, &[], 0);
        verify(&place, "state");
        assert_eq!(place.results("out"), whole, "round {round}: repaired, and the results differ");
    }
    println!("{found} found, {refused} refused, {harmless} harmless");
    drop(server);
}

#[test]
fn a_damaged_text_is_done_anew() {
    let (place, _server, config) = finished(3);
    let whole = place.results("out");
    let text = std::fs::read_dir(place.path("state/texts"))
        .unwrap()
        .flatten()
        .flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(".md.gz"))
        .unwrap();
    std::fs::write(&text, b"not a gzip").unwrap();
    let (code, said) = say(&place, &["verify", "--state", "state"]);
    assert_eq!(code, 1);
    assert!(said.contains("FAULT  the text of bulletin-"), "{said}");
    let (code, said) = say(&place, &["verify", "--repair", "--state", "state"]);
    assert_eq!(code, 0, "{said}");
    run(&place, &config, &[], 0);
    verify(&place, "state");
    assert_eq!(place.results("out"), whole);
}

#[test]
fn an_emptied_database_is_not_taken_for_a_new_one() {
    let (place, _server, _) = finished(2);
    std::fs::remove_dir_all(place.path("state/db")).unwrap();
    let (code, said) = say(&place, &["run", "run.yaml"]);
    assert_eq!(code, 1);
    assert!(said.contains("state"), "{said}");
    let (code, _) = say(&place, &["verify", "--state", "state"]);
    assert_eq!(code, 1);
}

#[test]
fn a_newer_state_is_refused() {
    let (place, _server, _) = finished(1);
    let path = place.path("state/identity.json");
    let identity = std::fs::read_to_string(&path).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&identity).unwrap();
    value["format"] = 999.into();
    std::fs::write(&path, value.to_string()).unwrap();
    let (code, said) = say(&place, &["run", "run.yaml"]);
    assert_eq!(code, 1);
    assert!(said.contains("format 999") && said.contains("newer qaflow"), "{said}");
}
