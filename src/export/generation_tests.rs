//! The results folder changes as a whole, and what is not an export's is left alone.

use super::*;

fn put(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
    std::fs::write(path, content).expect("file");
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(path).expect("readable")
}

/// A manifest that names files, as an export writes.
fn manifest(files: &[(&str, &str)]) -> String {
    let files: BTreeMap<&str, WrittenFile> = files
        .iter()
        .map(|(name, content)| (*name, WrittenFile { rows: 0, bytes: 0, sha256: hash_of(content.as_bytes()) }))
        .collect();
    serde_json::json!({"program": "qaflow", "files": files}).to_string()
}

/// Exports files to `out`.
fn export(out: &Path, files: &[(&str, &str)]) {
    let tops: Vec<&str> = files.iter().map(|(name, _)| top(name)).collect();
    let generation = Generation::begin(out, &tops).expect("begun");
    for (name, content) in files {
        put(&generation.folder().join(name), content);
    }
    put(&generation.folder().join("manifest.json"), &manifest(files));
    generation.publish().expect("published");
}

#[test]
fn the_new_replaces_the_old_and_what_it_no_longer_writes_is_gone() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    export(&out, &[("dataset.jsonl", "1"), ("parquet/train.parquet", "p"), ("documents/a.md", "text")]);
    put(&out.join("notes.txt"), "mine");
    put(&out.join("reviews/anna.jsonl"), "hers");
    let inode = |path: PathBuf| std::os::unix::fs::MetadataExt::ino(&path.metadata().expect("there"));
    let text = inode(out.join("documents/a.md"));
    let generation = Generation::begin(&out, &["dataset.jsonl"]).expect("begun");
    assert_eq!(inode(generation.folder().join("documents/a.md")), text, "texts are taken over, not copied");
    drop(generation);
    assert_eq!(read(out.join("parquet/train.parquet")), "p", "an export that was given up changes nothing");
    export(&out, &[("dataset.jsonl", "2"), ("alpaca/train.jsonl", "a")]);
    assert_eq!(read(out.join("dataset.jsonl")), "2");
    assert_eq!(read(out.join("alpaca/train.jsonl")), "a");
    assert!(out.join("parquet").symlink_metadata().is_err(), "what is no longer written is gone");
    assert_eq!((read(out.join("notes.txt")), read(out.join("reviews/anna.jsonl"))), ("mine".into(), "hers".into()));
    let kept: Vec<String> = names_in(&out.join(HOME)).expect("names").into_iter().collect();
    assert_eq!(kept.len(), 3, "one export, the link and the lock: {kept:?}");
}

#[test]
fn plain_files_of_earlier_programs_are_taken_over_without_changing() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    put(&out.join("dataset.jsonl"), "old");
    put(&out.join("documents/a.md"), "old text");
    put(&out.join("documents/index.jsonl"), "{}");
    put(&out.join("manifest.json"), &manifest(&[("dataset.jsonl", "old")]));
    let generation = Generation::begin(&out, &["dataset.jsonl", "documents"]).expect("begun");
    assert_eq!((read(out.join("dataset.jsonl")), read(out.join("documents/a.md"))), ("old".into(), "old text".into()));
    assert!(is_ours(&out, "dataset.jsonl") && is_ours(&out, "documents") && is_ours(&out, "manifest.json"));
    drop(generation);
    export(&out, &[("dataset.jsonl", "new")]);
    assert_eq!(read(out.join("dataset.jsonl")), "new");
    assert_eq!(read(out.join("documents/a.md")), "old text", "texts are taken over until the new export drops them");
}

#[test]
fn a_copy_that_followed_the_links_works_again() {
    let dir = tempfile::tempdir().expect("folder");
    let (out, copy) = (dir.path().join("out"), dir.path().join("copy"));
    export(&out, &[("dataset.jsonl", "1"), ("squad/train.jsonl", "s")]);
    let copied = std::process::Command::new("cp").arg("-rL").args([&out, &copy]).status().expect("cp");
    assert!(copied.success());
    export(&copy, &[("dataset.jsonl", "2"), ("squad/train.jsonl", "s2")]);
    assert_eq!((read(copy.join("dataset.jsonl")), read(copy.join("squad/train.jsonl"))), ("2".into(), "s2".into()));
    assert_eq!(read(out.join("dataset.jsonl")), "1");
}

#[test]
fn what_no_export_wrote_is_never_replaced() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    for (name, file) in
        [("parquet", "parquet/mine.parquet"), ("documents", "documents/mine.pdf"), ("dataset.jsonl", "dataset.jsonl")]
    {
        put(&out.join(file), "mine");
        for _ in 0..2 {
            let refused = Generation::begin(&out, &[name]).expect_err("occupied").to_string();
            assert!(refused.contains(&format!("{name} was not written by an export")), "{refused}");
        }
        assert_eq!(read(out.join(file)), "mine");
    }
}

#[test]
fn a_folder_where_an_export_has_a_file_is_somebody_s_and_the_other_way_round() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    let files = [("dataset.jsonl", "1"), ("sources.csv", "1"), ("alpaca/train.jsonl", "1")];
    export(&out, &files);
    for name in ["dataset.jsonl", "sources.csv"] {
        std::fs::remove_file(out.join(name)).expect("removed");
        put(&out.join(name).join("mine.txt"), "mine");
        let refused = Generation::begin(&out, &[name]).expect_err("occupied").to_string();
        assert!(refused.contains(&format!("{name} was not written by an export")), "{refused}");
        assert_eq!(read(out.join(name).join("mine.txt")), "mine");
        std::fs::remove_dir_all(out.join(name)).expect("removed");
    }
    std::fs::remove_file(out.join("alpaca")).expect("removed");
    put(&out.join("alpaca"), "mine");
    Generation::begin(&out, &["alpaca"]).expect_err("occupied");
    export(&out, &files[..2]);
    assert_eq!(read(out.join("alpaca")), "mine");
}

#[test]
fn what_somebody_put_into_a_folder_of_an_export_is_taken_over() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    let text = format!("documents/{}.md", "ab".repeat(32));
    export(&out, &[("alpaca/train.jsonl", "1"), ("dataset.jsonl", "1"), (text.as_str(), "text")]);
    put(&out.join("alpaca/notes.txt"), "mine");
    put(&out.join("documents/deep/notes.md"), "mine, too");
    export(&out, &[("dataset.jsonl", "2")]);
    export(&out, &[("dataset.jsonl", "3")]);
    assert_eq!(read(out.join("alpaca/notes.txt")), "mine");
    assert_eq!(read(out.join("documents/deep/notes.md")), "mine, too");
    assert!(!out.join("alpaca/train.jsonl").exists(), "what the export itself wrote is gone");
}

#[test]
fn a_card_that_a_person_changed_stays() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    export(&out, &[("README.md", "card"), ("dataset.jsonl", "1")]);
    assert!(!Generation::begin(&out, &[CARD]).expect("begun").own_card());
    // Written through the link, into the export itself.
    std::fs::write(out.join(CARD), "my card").expect("written");
    assert!(Generation::begin(&out, &[CARD]).expect("begun").own_card());
    export(&out, &[("dataset.jsonl", "2")]);
    assert_eq!((read(out.join(CARD)), read(out.join("dataset.jsonl"))), ("my card".into(), "2".into()));
}

#[test]
fn one_export_at_a_time() {
    let dir = tempfile::tempdir().expect("folder");
    let _first = Generation::begin(dir.path(), &[]).expect("begun");
    let refused = Generation::begin_within(dir.path(), &[], Duration::ZERO).expect_err("busy").to_string();
    assert!(refused.contains("another export"), "{refused}");
}

#[test]
fn without_links_files_are_replaced_one_by_one() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    let plainly = |files: &[(&str, &str)]| {
        make_folder(&out.join(HOME)).expect("folder");
        let folder = out.join(HOME).join("g-000001");
        let lock = File::create(out.join(HOME).join("lock")).expect("lock");
        let generation =
            Generation { out: out.clone(), folder, own_card: false, links: false, published: false, _lock: lock };
        for (name, content) in files {
            put(&generation.folder().join(name), content);
        }
        put(&generation.folder().join("manifest.json"), &manifest(files));
        generation.publish().expect("published");
    };
    plainly(&[("dataset.jsonl", "1"), ("squad/train.jsonl", "s")]);
    put(&out.join("notes.txt"), "mine");
    plainly(&[("dataset.jsonl", "2"), ("documents/a.md", "t")]);
    assert_eq!((read(out.join("dataset.jsonl")), read(out.join("documents/a.md"))), ("2".into(), "t".into()));
    assert!(!out.join("squad/train.jsonl").exists());
    assert_eq!(read(out.join("notes.txt")), "mine");
}

#[test]
fn an_export_waits_for_another_one() {
    let dir = tempfile::tempdir().expect("folder");
    let first = Generation::begin(dir.path(), &[]).expect("begun");
    let (begun, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let second = scope.spawn(move || {
            begun.send(()).expect("sent");
            Generation::begin(dir.path(), &[]).map(drop)
        });
        ended.recv().expect("begun");
        drop(first);
        second.join().expect("joined").expect("it had its turn");
    });
}

#[test]
fn what_a_person_changed_is_kept_and_said_once() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    let later = |name: &str, content: &str| {
        put(&out.join(name), content);
        let file = File::options().append(true).open(out.join(name)).expect("open");
        file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).expect("time");
    };
    export(&out, &[("dataset.jsonl", "1"), ("rejected.jsonl", "r"), ("alpaca/train.json", "a")]);
    later("dataset.jsonl", "mine");
    later("alpaca/train.json", "mine too");
    later("rejected.jsonl", "r");
    export(&out, &[("dataset.jsonl", "2"), ("rejected.jsonl", "r"), ("alpaca/train.json", "b")]);
    assert_eq!(read(out.join("dataset.jsonl")), "2");
    assert_eq!(read(out.join("dataset.jsonl.edited")), "mine");
    assert_eq!(read(out.join("alpaca-train.json.edited")), "mine too");
    assert!(!out.join("rejected.jsonl.edited").exists(), "it was touched, not changed");
    // An export that is given up keeps it once; another change is kept beside it.
    later("dataset.jsonl", "mine");
    drop(Generation::begin(&out, &["dataset.jsonl"]).expect("begun"));
    assert!(!out.join("dataset.jsonl.edited-2").exists());
    later("dataset.jsonl", "mine again");
    export(&out, &[("dataset.jsonl", "3")]);
    assert_eq!(read(out.join("dataset.jsonl.edited-2")), "mine again");
    assert_eq!(read(out.join("dataset.jsonl")), "3");
}

#[test]
fn a_text_that_a_person_changed_is_kept_too() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    let [changed, other] = ["ab", "cd"].map(|hash| format!("documents/{}.md", hash.repeat(32)));
    let sums = format!("{}  {changed}\n{0}  {other}\n", hash_of(b"text"));
    let files = [(changed.as_str(), "text"), (other.as_str(), "text"), ("SHA256SUMS", sums.as_str())];
    export(&out, &files);
    for (name, content) in [(&changed, "mine"), (&other, "text")] {
        put(&out.join(name), content);
        let file = File::options().append(true).open(out.join(name)).expect("open");
        file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).expect("time");
    }
    export(&out, &files);
    let kept = |name: &str| out.join(format!("{}.edited", name.replace('/', "-")));
    assert_eq!(read(kept(&changed)), "mine");
    assert_eq!(read(out.join(&changed)), "text");
    assert!(!kept(&other).exists(), "it was touched, not changed");
}
