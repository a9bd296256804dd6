//! The results folder changes as a whole: an export is written into a folder of its own, and one rename puts it in
//! place of the last.
//!
//! `out/.export/g-000012/` holds an export, `out/.export/current` is a link to it, and `out/dataset.jsonl` and all other
//! names are links through `current`. So the rename of `current` changes all files at once, whatever moment the process
//! is killed at. Kubernetes updates its mounted volumes so (`AtomicWriter`). An exchange of whole folders would break
//! network file systems, mount points and shells that stand in the folder.
//!
//! Files in the results folder that no export wrote are left alone. Where a file system has no links, files are put in
//! place one by one, the manifest last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use super::file::{WrittenFile, hash_of};
use super::{ExportError, given_up};

/// The folder in the results folder that holds the exports.
const HOME: &str = ".export";
/// The link to the export in force.
const CURRENT: &str = "current";
/// Names that earlier programs wrote as plain files.
const FIRST_NAMES: [&str; 5] = ["dataset.jsonl", "rejected.jsonl", "dead_letters.jsonl", "documents", "manifest.json"];
/// How long an export waits for another one to the same folder: a run that ends should not fail for a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The dataset card, which people edit.
pub(super) const CARD: &str = "README.md";

/// An export under way. Dropped without [`Generation::publish`], it is removed, and the last one stays in force.
#[derive(Debug)]
pub struct Generation {
    out: PathBuf,
    folder: PathBuf,
    own_card: bool,
    links: bool,
    published: bool,
    _lock: File,
}

/// What an earlier export wrote, from its manifest.
#[derive(Default, Deserialize)]
struct Earlier {
    program: String,
    files: BTreeMap<String, WrittenFile>,
    /// Whether exports were written here before, also by one that was killed before its manifest.
    #[serde(skip)]
    here: bool,
}

impl Earlier {
    fn read(out: &Path) -> Self {
        let read = std::fs::read(out.join("manifest.json")).ok();
        let earlier: Option<Self> = read.and_then(|json| serde_json::from_slice(&json).ok());
        let mut earlier = earlier.filter(|earlier| earlier.program == "qaflow").unwrap_or_default();
        earlier.here = !earlier.program.is_empty() || out.join(HOME).is_dir();
        earlier
    }

    /// Whether a plain name in the results folder is that of an export: a file where exports write one, a folder where
    /// they write a folder.
    fn wrote(&self, out: &Path, name: &str) -> bool {
        let is_folder = out.join(name).symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if name == "documents" {
            // A folder of this name may be anybody's.
            return self.here && is_folder && out.join("documents/index.jsonl").is_file();
        }
        let first = !is_folder && FIRST_NAMES.contains(&name);
        self.here && (first || self.files.keys().any(|file| top(file) == name && (file != name) == is_folder))
    }

    /// Whether a file below an export is its own, rather than put there by somebody through the link of its folder.
    fn owns(&self, name: &str, sums: &BTreeSet<String>) -> bool {
        let text = name.strip_prefix("documents/").and_then(|name| name.strip_suffix(".md"));
        let is_text = text.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let always = ["SHA256SUMS", "documents/index.jsonl"];
        is_text && sums.is_empty()
            || always.contains(&name)
            || FIRST_NAMES.contains(&name)
            || sums.contains(name)
            || self.files.contains_key(name)
    }
}

/// The first part of a path below the results folder.
pub(super) fn top(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

impl Generation {
    /// Begins an export to `out`, which will write `names` there (files and folders at its top).
    ///
    /// # Errors
    /// If another export to it is under way and goes on for half a minute, if something that no export wrote stands
    /// where one of `names` must, or if the folder cannot be written.
    pub fn begin(out: &Path, names: &[&str]) -> Result<Self, ExportError> {
        Self::begin_within(out, names, PATIENCE)
    }

    fn begin_within(out: &Path, names: &[&str], patience: Duration) -> Result<Self, ExportError> {
        check(out, names)?;
        let home = out.join(HOME);
        make_folder(&home)?;
        let lock_path = home.join("lock");
        let lock = File::options().create(true).append(true).open(&lock_path).map_err(at(&lock_path))?;
        let began = Instant::now();
        // A file system without locks has no two exports at once kept apart; nothing else is lost by it.
        while flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
            if began.elapsed() > patience {
                return Err(ExportError::Busy { out: out.into() });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        super::edited::keep(out, &Earlier::read(out).files, &text_sums(out))?;
        let own_card = keep_card(out)?;
        let links = adopt(out)?;
        let current = std::fs::read_link(home.join(CURRENT)).ok();
        let mut newest = 0;
        for entry in std::fs::read_dir(&home).map_err(at(&home))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(number) = name.strip_prefix("g-").and_then(|number| number.parse::<u64>().ok()) else { continue };
            newest = newest.max(number);
            if current.as_deref() != Some(Path::new(&name)) {
                // Left by an export that was killed.
                std::fs::remove_dir_all(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        let folder = home.join(format!("g-{:06}", newest + 1));
        make_folder(&folder)?;
        let generation = Self { out: out.into(), folder, own_card, links, published: false, _lock: lock };
        generation.take_over_texts();
        Ok(generation)
    }

    /// Where the export is to be written.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the card in the results folder was written or changed by a person, and so is left as it is.
    pub fn own_card(&self) -> bool {
        self.own_card
    }

    /// The documents' texts are the largest part and seldom change: the new export begins with those of the last.
    /// Writing one anew replaces it and leaves the last export's alone.
    fn take_over_texts(&self) {
        let (from, to) = (self.out.join("documents"), self.folder.join("documents"));
        let Ok(entries) = std::fs::read_dir(from) else { return };
        if std::fs::create_dir_all(&to).is_err() {
            return;
        }
        for entry in entries.flatten() {
            if entry.path().extension().is_some_and(|ending| ending == "md") {
                // One that cannot be linked is written.
                let _ = std::fs::hard_link(entry.path(), to.join(entry.file_name()));
            }
        }
    }

    /// Puts the export in force.
    ///
    /// # Errors
    /// If something cannot be written; the last export is in force then, or, after the rename, this one.
    pub fn publish(mut self) -> Result<(), ExportError> {
        if self.links {
            self.publish_by_links()
                .map_err(|error| if self.in_force() { error } else { given_up(&self.out, error) })?;
        } else {
            self.publish_one_by_one()?;
        }
        self.published = true;
        Ok(())
    }

    /// Whether the link leads to it.
    fn in_force(&self) -> bool {
        let current = std::fs::read_link(self.out.join(HOME).join(CURRENT)).ok();
        current.as_deref() == self.folder.file_name().map(Path::new)
    }

    /// Takes over what somebody put into a folder of the last export, such as `alpaca/notes.txt`: it is not ours to
    /// remove.
    fn take_over_foreign_files(&self) -> Result<(), ExportError> {
        let former = self.out.join(HOME).join(CURRENT);
        let earlier = Earlier::read(&self.out);
        let sums: BTreeSet<String> = sums(&former).into_keys().collect();
        let Ok(folder) = former.canonicalize() else { return Ok(()) };
        for entry in walkdir::WalkDir::new(&folder).into_iter().filter_map(Result::ok) {
            let Ok(name) = entry.path().strip_prefix(&folder) else { continue };
            let to = self.folder.join(name);
            let partial = entry.file_name().to_string_lossy().ends_with(".partial");
            if entry.file_type().is_dir() || partial || earlier.owns(&name.to_string_lossy(), &sums) {
                continue;
            }
            if to.symlink_metadata().is_ok() {
                continue;
            }
            if let Some(parent) = to.parent() {
                make_folder(parent)?;
            }
            std::fs::hard_link(entry.path(), &to)
                .or_else(|_| std::fs::copy(entry.path(), &to).map(drop))
                .map_err(at(&to))?;
        }
        Ok(())
    }

    fn publish_by_links(&self) -> Result<(), ExportError> {
        self.take_over_foreign_files()?;
        let home = self.out.join(HOME);
        sync_folders(&self.folder)?;
        let names = names_in(&self.folder)?;
        // New names lead nowhere until the rename below.
        for name in &names {
            link(&self.out, name)?;
        }
        sync(&self.out)?;
        let former = std::fs::read_link(home.join(CURRENT)).ok();
        let this = self.folder.file_name().unwrap_or_default();
        replace_by_link(Path::new(this), &home.join(CURRENT))?;
        sync(&home)?;
        remove_dead_links(&self.out, &names)?;
        if let Some(former) = former {
            // What is open in it can still be read to its end. One that cannot be removed now is by the next export.
            let _ = std::fs::remove_dir_all(home.join(former));
        }
        Ok(())
    }

    fn publish_one_by_one(&self) -> Result<(), ExportError> {
        tracing::warn!(
            "{} lies on a file system without links: the files are replaced one by one, so a kill in this moment mixes \
             two exports (SHA256SUMS tells, and exporting again mends it)",
            self.out.display()
        );
        let earlier = Earlier::read(&self.out);
        let mut files = Vec::new();
        for entry in walkdir::WalkDir::new(&self.folder).sort_by_file_name() {
            let entry = entry.map_err(|error| ExportError::Write { path: self.folder.clone(), error: error.into() })?;
            if entry.file_type().is_file()
                && let Ok(name) = entry.path().strip_prefix(&self.folder)
            {
                files.push(name.to_path_buf());
            }
        }
        files.sort_by_key(|name| (name == Path::new("manifest.json"), !name.starts_with("documents")));
        for name in &files {
            let to = self.out.join(name);
            if let Some(parent) = to.parent() {
                make_folder(parent)?;
            }
            std::fs::rename(self.folder.join(name), &to).map_err(at(&to))?;
        }
        for gone in earlier.files.keys().filter(|name| !files.iter().any(|file| file == Path::new(name))) {
            let path = self.out.join(gone);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
                && gone != CARD
            {
                return Err(at(&path)(error));
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
        sync_folders(&self.out)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.published && !self.in_force() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The bytes of the files of the last export to `out`, the documents' texts left out; `None` if there is none.
pub(super) fn last_bytes(out: &Path) -> Option<u64> {
    let earlier = Earlier::read(out);
    (!earlier.program.is_empty()).then(|| earlier.files.values().map(|file| file.bytes).sum())
}

/// Whether an export that writes `names` can be put into `out`. The folder need not be there.
///
/// # Errors
/// Names what stands in the way: something that no export wrote.
pub fn check(out: &Path, names: &[&str]) -> Result<(), ExportError> {
    let earlier = Earlier::read(out);
    for name in names {
        let path = out.join(name);
        let there = path.symlink_metadata().is_ok();
        if there && *name != CARD && !is_ours(out, name) && !earlier.wrote(out, name) {
            return Err(ExportError::Occupied { path });
        }
    }
    Ok(())
}

/// Keeps a card that a person wrote or changed, as a file of its own; whether there is one.
fn keep_card(out: &Path) -> Result<bool, ExportError> {
    let path = out.join(CARD);
    let Ok(content) = std::fs::read(&path) else {
        // Neither a broken link nor a folder is a card to keep.
        return Ok(path.is_dir());
    };
    let hash = hash_of(&content);
    if Earlier::read(out).files.get(CARD).is_some_and(|written| written.sha256 == hash) {
        return Ok(false);
    }
    if path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) && is_ours(out, CARD) {
        super::file::write_whole(&path, &content)?;
    }
    Ok(true)
}

/// Makes the link scheme of whatever an earlier export left as plain files, so that the exchange that follows changes
/// everything at once. Each step leaves the content of every name as it was, save that a folder's name is gone for the
/// moment between two renames. False where the file system has no links.
fn adopt(out: &Path) -> Result<bool, ExportError> {
    let home = out.join(HOME);
    let current = home.join(CURRENT);
    if current.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        // The results folder was copied with its links followed: the copies at the top hold the same.
        std::fs::remove_dir_all(&current).map_err(at(&current))?;
    }
    match std::fs::read_link(&current) {
        Ok(to) if to.to_string_lossy().starts_with("g-") && to.components().count() == 1 => {
            make_folder(&home.join(to))?;
        }
        Ok(_) => std::fs::remove_file(&current).map_err(at(&current))?,
        Err(_) => {}
    }
    if current.symlink_metadata().is_err() {
        let first = home.join("g-000000");
        make_folder(&first)?;
        if let Err(error) = std::os::unix::fs::symlink("g-000000", &current) {
            return match error.raw_os_error() {
                Some(errno) if no_links(errno) => Ok(false),
                _ => Err(at(&current)(error)),
            };
        }
    }
    let earlier = Earlier::read(out);
    let mut plain = BTreeSet::new();
    for name in names_in(out)? {
        let meta = out.join(&name).symlink_metadata();
        if meta.is_ok_and(|meta| !meta.is_symlink()) && earlier.wrote(out, &name) && name != CARD {
            plain.insert(name);
        }
    }
    // Last what says which names are an export's.
    let mut plain: Vec<String> = plain.into_iter().collect();
    plain.sort_by_key(|name| name == "manifest.json");
    for name in plain {
        let (from, to) = (out.join(&name), current.join(&name));
        if from.is_dir() {
            let _ = std::fs::remove_dir_all(&to);
            std::fs::rename(&from, &to).map_err(at(&from))?;
        } else {
            let beside = current.join(format!(".{name}.adopted"));
            let _ = std::fs::remove_file(&beside);
            std::fs::hard_link(&from, &beside)
                .or_else(|_| std::fs::copy(&from, &beside).map(drop))
                .and_then(|()| std::fs::rename(&beside, &to))
                // Renaming one name of a file to another of its names does nothing, and leaves both.
                .and_then(|()| if beside.exists() { std::fs::remove_file(&beside) } else { Ok(()) })
                .map_err(at(&to))?;
        }
        link(out, &name)?;
    }
    Ok(true)
}

/// Whether the system's answer means that links do not exist here.
fn no_links(errno: i32) -> bool {
    use rustix::io::Errno;
    [Errno::PERM, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL]
        .iter()
        .any(|known| known.raw_os_error() == errno)
}

/// The names and SHA-256 in the `SHA256SUMS` of an export.
fn sums(export: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(export.join("SHA256SUMS")).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once("  ")).map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect()
}

/// Those of the documents' texts.
fn text_sums(out: &Path) -> BTreeMap<String, String> {
    let is_text = |name: &str| name.strip_prefix("documents/").is_some_and(|name| name.strip_suffix(".md").is_some());
    sums(out).into_iter().filter(|(name, _)| is_text(name)).collect()
}

/// Where the link at the top of the results folder leads.
fn target(name: &str) -> PathBuf {
    Path::new(HOME).join(CURRENT).join(name)
}

fn is_ours(out: &Path, name: &str) -> bool {
    std::fs::read_link(out.join(name)).is_ok_and(|to| to == target(name))
}

/// Puts the link for `name` at the top of the results folder, unless it is there.
fn link(out: &Path, name: &str) -> Result<(), ExportError> {
    if is_ours(out, name) { Ok(()) } else { replace_by_link(&target(name), &out.join(name)) }
}

/// Puts a link to `to` at `path`, in place of what is there.
fn replace_by_link(to: &Path, path: &Path) -> Result<(), ExportError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.partial"));
    let _ = std::fs::remove_file(&beside);
    std::os::unix::fs::symlink(to, &beside).and_then(|()| std::fs::rename(&beside, path)).map_err(at(path))
}

/// Removes links of ours that an export no longer writes.
fn remove_dead_links(out: &Path, names: &BTreeSet<String>) -> Result<(), ExportError> {
    for name in names_in(out)? {
        if !names.contains(&name) && is_ours(out, &name) {
            std::fs::remove_file(out.join(&name)).map_err(at(&out.join(&name)))?;
        }
    }
    Ok(())
}

fn names_in(folder: &Path) -> Result<BTreeSet<String>, ExportError> {
    let entries = std::fs::read_dir(folder).map_err(at(folder))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn make_folder(path: &Path) -> Result<(), ExportError> {
    std::fs::create_dir_all(path).map_err(at(path))
}

/// Files are on disk when they are finished; their names are when their folder is.
fn sync_folders(folder: &Path) -> Result<(), ExportError> {
    for entry in walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok) {
        if entry.file_type().is_dir() {
            sync(entry.path())?;
        }
    }
    Ok(())
}

fn sync(folder: &Path) -> Result<(), ExportError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

fn at(path: &Path) -> impl Fn(Error) -> ExportError {
    let path = path.to_path_buf();
    move |error| ExportError::Write { path: path.clone(), error }
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
