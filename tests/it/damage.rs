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
        if said.contains("FAULT") {
            found += 1;
        } else {
            assert!(said.contains("is damaged") && said.contains("qaflow verify --repair"), "round {round}: {said}");
            refused += 1;
        }
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

/// Most flips keep the database from opening, or make pages of it older than others.
#[test]
fn a_flipped_byte_costs_no_answers() {
    let place = Place::new();
    place.corpus(24, 12);
    let server = Server::start(&["--latency-ms", "0"]);
    let config = place.config(&server, 16);
    run(&place, &config, &[], 0);
    let (whole, paid) = (place.results("out"), server.requests().arrived.len());
    copy(&place.path("state"), &place.path("kept"));
    let bytes = std::fs::read(place.path("kept/db/db")).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut random = fastrand::Rng::with_seed(4);
    let (mut refused, mut begun_anew, mut asked) = (0, 0, 0);
    for round in 0..40 {
        if refused == 5 {
            break;
        }
        let _ = std::fs::remove_dir_all(place.path("state"));
        copy(&place.path("kept"), &place.path("state"));
        let mut bytes = bytes.clone();
        bytes[used[random.usize(..used.len())]] ^= 1 << random.u8(..8);
        std::fs::write(place.path("state/db/db"), bytes).unwrap();
        if say(&place, &["verify", "--state", "state"]).0 == 0 {
            continue;
        }
        refused += 1;
        // As one of several, of which there may be more.
        let (code, said) = say(&place, &["verify", "--repair", "--state", "stat*"]);
        assert_eq!(code, 0, "round {round}: {said}");
        if said.contains("model answers saved") {
            assert!(said.contains("state: its database is begun anew"), "round {round}: {said}");
            assert!(!said.contains("accounted for"), "round {round}: nothing is proven: {said}");
            let (code, said) = say(&place, &["verify", "--repair", "--state", "stat*"]);
            assert!(code == 1 && said.contains("1 state not begun: start `qaflow run`"), "round {round}: {said}");
            assert!(place.path("state/damaged-1/db/db").is_file(), "round {round}: {said}");
            // Nothing is exported before everything was worked out again.
            let (code, said) = say(&place, &["export", "--state", "state"]);
            assert!(code == 2 && said.contains("Start `qaflow run` first"), "round {round}: {said}");
            let (_, said) = say(&place, &["status", "--state", "state"]);
            assert!(said.contains("begun anew by a repair"), "round {round}: {said}");
            begun_anew += 1;
        }
        let before = server.requests().arrived.len();
        run(&place, &config, &[], 0);
        verify(&place, "state");
        assert_eq!(place.results("out"), whole, "round {round}: repaired, and the results differ");
        // What was worked out again was done once.
        let manifest = std::fs::read(place.path("out/manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let ledger = &manifest["ledger"];
        // Unless the flip hit the account itself.
        if ledger["attempts"][0]["number"] == 1 {
            assert_eq!(ledger["totals"]["documents_done"], 24, "round {round}: {ledger}");
        }
        let again = server.requests().arrived.len() - before;
        println!("round {round}: {again} of {paid} answers asked for again");
        assert!(again * 10 <= paid, "round {round}: {again} of {paid} asked for again");
        asked += again;
    }
    assert!(refused == 5 && begun_anew > 0, "{refused} flips were noticed, {begun_anew} databases begun anew");
    println!("{asked} of {} answers asked for again", refused * paid);
}

#[test]
fn a_state_without_its_identity_is_known_by_its_database() {
    let (place, _server, config) = finished(2);
    let whole = place.results("out");
    std::fs::remove_file(place.path("state/identity.json")).unwrap();
    let (code, said) = say(&place, &["verify", "--state", "state"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("identity.json was missing and is made anew from the database"), "{said}");
    assert!(place.path("state/identity.json").is_file());
    std::fs::remove_file(place.path("state/identity.json")).unwrap();
    let (code, said) = say(&place, &["export", "--state", "stat*"]);
    assert!(code == 0 || said.contains("--out"), "{said}");
    // Without either file, a database that opens empty is still noticed.
    std::fs::remove_file(place.path("state/identity.json")).unwrap();
    std::fs::write(place.path("state/db/db"), b"").unwrap();
    let (code, said) = say(&place, &["run", "run.yaml"]);
    assert!(code == 1 && said.contains("it opens empty, though the file `epoch` records commit"), "{said}");
    std::fs::remove_dir_all(place.path("state")).unwrap();
    run(&place, &config, &[], 0);
    assert_eq!(place.results("out"), whole);
}
