//! Documents' texts, beside the database: `texts/ab/<id>.md.gz` holds the Markdown as `zcat` shows it, and
//! `<id>.pages` the character offset at which each page begins, as a JSON array. The id is the blake3 hash of both.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};

use super::files::{create_dirs, io_error, sync_dir, write_atomic_in};
use crate::model::StoreError;
use crate::model::ids::BlobId;
use crate::model::text::{ExtractedText, TextStore};

/// The bytes of texts kept in memory unless told otherwise.
pub const DEFAULT_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// The most texts kept in memory, however small they are: many times the documents that are worked on at once. Beyond
/// those, a text is read once more, for the export.
const CACHED_TEXTS: usize = 128;
/// More than any document's text: bounds what a forged file can make the reader allocate.
const MAX_TEXT: u64 = 1 << 30;
/// Loads of different texts rarely wait for each other; those of one text always do, and so happen once.
const LOADERS: usize = 16;
/// A temporary file this old is a leftover of a process that was killed.
const LEFTOVER: Duration = Duration::from_secs(3600);

/// Texts in files, with a cache of those used last.
#[derive(Debug)]
pub struct FileTexts {
    dir: PathBuf,
    temporary: PathBuf,
    loaders: [Mutex<()>; LOADERS],
    cache: Mutex<Cache>,
}

/// Texts used last.
#[derive(Debug)]
struct Cache {
    limit: u64,
    bytes: u64,
    clock: u64,
    texts: HashMap<BlobId, (Arc<ExtractedText>, u64)>,
}

impl Cache {
    fn get(&mut self, id: &BlobId) -> Option<Arc<ExtractedText>> {
        self.clock += 1;
        let (text, used) = self.texts.get_mut(id)?;
        *used = self.clock;
        Some(Arc::clone(text))
    }

    fn insert(&mut self, id: BlobId, text: &Arc<ExtractedText>) {
        let size = size_of(text);
        if size > self.limit || self.texts.contains_key(&id) {
            return;
        }
        while self.bytes + size > self.limit || self.texts.len() >= CACHED_TEXTS {
            // Few texts fit the cache, so looking at all of them costs less than keeping them in order.
            let Some(oldest) = self.texts.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id) else { break };
            if let Some((gone, _)) = self.texts.remove(&oldest) {
                self.bytes -= size_of(&gone);
            }
        }
        self.clock += 1;
        self.bytes += size;
        self.texts.insert(id, (Arc::clone(text), self.clock));
    }
}

/// What a text takes in memory, its entry in the cache included.
fn size_of(text: &ExtractedText) -> u64 {
    (text.markdown.len() + 8 * text.page_starts.len() + 256) as u64
}

impl FileTexts {
    /// Opens the texts of the state in `dir`, keeping at most `cache_bytes` of them in memory.
    pub fn open(dir: impl AsRef<Path>, cache_bytes: u64) -> Result<Self, StoreError> {
        let dir = dir.as_ref().join("texts");
        let temporary = dir.join("tmp");
        create_dirs(&temporary)?;
        remove_leftovers(&temporary);
        let cache = Cache { limit: cache_bytes, bytes: 0, clock: 0, texts: HashMap::new() };
        Ok(Self { dir, temporary, loaders: Default::default(), cache: Mutex::new(cache) })
    }

    /// Where the text's Markdown lies.
    pub fn path(&self, id: &BlobId) -> PathBuf {
        let hex = id.hex();
        self.dir.join(&hex[..2]).join(format!("{hex}.md.gz"))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loader(&self, id: &BlobId) -> MutexGuard<'_, ()> {
        self.loaders[usize::from(id.0[0]) % LOADERS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, id: &BlobId) -> Result<ExtractedText, StoreError> {
        let path = self.path(id);
        let pages_path = pages_path(&path);
        let damaged = |path: &Path, detail: String| StoreError::Damaged {
            what: format!("the text {}", path.display()),
            detail,
            remedy: "Run `qaflow verify --repair`, which has the document extracted anew".into(),
        };
        let read = |path: &Path| {
            fs::read(path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => damaged(path, "it is missing".into()),
                _ => io_error("cannot read", path, &e),
            })
        };
        let mut markdown = String::new();
        GzDecoder::new(read(&path)?.as_slice())
            .take(MAX_TEXT)
            .read_to_string(&mut markdown)
            .map_err(|e| damaged(&path, e.to_string()))?;
        let page_starts =
            serde_json::from_slice(&read(&pages_path)?).map_err(|e| damaged(&pages_path, e.to_string()))?;
        let text = ExtractedText { markdown, page_starts };
        let found = identify(&text);
        if found != *id {
            return Err(damaged(&path, format!("with its pages it has the hash {found}, not that of its name")));
        }
        Ok(text)
    }

    fn write(&self, id: &BlobId, text: &ExtractedText) -> Result<(), StoreError> {
        let path = self.path(id);
        let folder = path.parent().unwrap_or(&self.dir);
        create_dirs(folder)?;
        let compressed = compress(&text.markdown).map_err(|e| io_error("cannot compress", &path, &e))?;
        let pages = serde_json::to_vec(&text.page_starts).map_err(|e| io_error("cannot write", &path, &e.into()))?;
        let pages_path = pages_path(&path);
        set_aside(&pages_path)?;
        set_aside(&path)?;
        write_atomic_in(&pages_path, &pages, &self.temporary)?;
        write_atomic_in(&path, &compressed, &self.temporary)?;
        sync_dir(folder)
    }
}

impl TextStore for FileTexts {
    fn put(&self, text: &ExtractedText) -> Result<BlobId, StoreError> {
        let id = identify(text);
        let _only_one = self.loader(&id);
        match self.load(&id) {
            // Another process may have been killed between its rename and its sync.
            Ok(_) => {
                let path = self.path(&id);
                for file in [&path, &pages_path(&path)] {
                    File::open(file).and_then(|f| f.sync_data()).map_err(|e| io_error("cannot sync", file, &e))?;
                }
                sync_dir(path.parent().unwrap_or(&self.dir))?;
            }
            Err(StoreError::Damaged { .. }) => self.write(&id, text)?,
            Err(other) => return Err(other),
        }
        self.cache().insert(id, &Arc::new(text.clone()));
        Ok(id)
    }

    fn get(&self, id: &BlobId) -> Result<Arc<ExtractedText>, StoreError> {
        if let Some(text) = self.cache().get(id) {
            return Ok(text);
        }
        let _only_one = self.loader(id);
        if let Some(text) = self.cache().get(id) {
            return Ok(text);
        }
        let text = Arc::new(self.load(id)?);
        self.cache().insert(*id, &text);
        Ok(text)
    }
}

/// The id of a text: blake3 over its Markdown and its page starts.
pub fn identify(text: &ExtractedText) -> BlobId {
    let mut hasher = blake3::Hasher::new_derive_key("qaflow text v1");
    hasher.update(&(text.markdown.len() as u64).to_be_bytes()).update(text.markdown.as_bytes());
    for start in &text.page_starts {
        hasher.update(&start.to_be_bytes());
    }
    BlobId(*hasher.finalize().as_bytes())
}

/// The same bytes for the same text: no name and no time in the header.
fn compress(markdown: &str) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    encoder.write_all(markdown.as_bytes())?;
    encoder.finish()
}

fn pages_path(path: &Path) -> PathBuf {
    // From `<id>.md.gz` to `<id>.pages`.
    path.with_extension("").with_extension("pages")
}

/// Keeps a file that is about to be written anew, because it or its companion was damaged.
fn set_aside(path: &Path) -> Result<(), StoreError> {
    if !path.exists() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kept = (1..10_000_u32)
        .map(|n| path.with_file_name(format!("{name}.damaged-{n}")))
        .find(|kept| !kept.exists())
        .unwrap_or_else(|| path.with_file_name(format!("{name}.damaged-{:016x}", fastrand::u64(..))));
    tracing::warn!("{} was damaged: set aside as {}", path.display(), kept.display());
    fs::rename(path, &kept).map_err(|e| io_error("cannot set aside", path, &e))
}

/// Removes temporary files that a killed process left. One that cannot be removed does no harm.
fn remove_leftovers(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let age =
            entry.metadata().and_then(|m| m.modified()).ok().and_then(|m| SystemTime::now().duration_since(m).ok());
        if age.is_some_and(|age| age > LEFTOVER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &str) -> ExtractedText {
        ExtractedText { markdown: words.repeat(1000), page_starts: vec![0, 5, 900] }
    }

    #[test]
    fn texts_come_back_and_zcat_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let texts = FileTexts::open(dir.path(), DEFAULT_CACHE_BYTES).unwrap();
        let original = text("# Straße\n\nText. ");
        let id = texts.put(&original).unwrap();
        assert_eq!(texts.put(&original).unwrap(), id);
        let other = FileTexts::open(dir.path(), 0).unwrap();
        assert_eq!(*other.get(&id).unwrap(), original);
        let mut plain = String::new();
        GzDecoder::new(File::open(texts.path(&id)).unwrap()).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, original.markdown);
        assert_eq!(fs::read_dir(dir.path().join("texts/tmp")).unwrap().count(), 0);
        let empty = ExtractedText::default();
        let id = texts.put(&empty).unwrap();
        assert_eq!(*other.get(&id).unwrap(), empty);
    }

    #[test]
    fn page_starts_belong_to_the_identity() {
        let mut other = text("a");
        other.page_starts[1] += 1;
        assert_ne!(identify(&text("a")), identify(&other));
    }

    #[test]
    fn damage_is_named_and_put_heals_it_keeping_the_damaged_file() {
        let dir = tempfile::tempdir().unwrap();
        let texts = FileTexts::open(dir.path(), 0).unwrap();
        let original = text("word ");
        let id = texts.put(&original).unwrap();
        let path = texts.path(&id);
        let pages = pages_path(&path);
        for victim in [&path, &pages] {
            let good = fs::read(victim).unwrap();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                fs::write(victim, &bad).unwrap();
                match texts.get(&id) {
                    // The gzip header holds bytes that mean nothing, such as the operating system.
                    Ok(read) => assert_eq!(*read, original),
                    Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "{error}"),
                }
            }
            fs::write(victim, &good[..good.len() / 2]).unwrap();
            let error = texts.get(&id).unwrap_err();
            assert!(error.to_string().contains(&victim.display().to_string()), "{error}");
            assert_eq!(texts.put(&original).unwrap(), id);
            assert_eq!(*texts.get(&id).unwrap(), original);
        }
        fs::remove_file(&pages).unwrap();
        assert!(texts.get(&id).unwrap_err().to_string().contains("missing"));
        let kept = fs::read_dir(path.parent().unwrap()).unwrap().flatten();
        assert_eq!(kept.filter(|e| e.file_name().to_string_lossy().contains("damaged")).count(), 4);
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_was_used_last() {
        let dir = tempfile::tempdir().unwrap();
        let one = size_of(&text("0123456789"));
        let texts = FileTexts::open(dir.path(), 2 * one).unwrap();
        let ids: Vec<BlobId> =
            ["0123456789", "1123456789", "2123456789"].map(|words| texts.put(&text(words)).unwrap()).to_vec();
        assert_eq!(texts.cache().bytes, 2 * one);
        assert!(!texts.cache().texts.contains_key(&ids[0]));
        texts.get(&ids[1]).unwrap();
        texts.get(&ids[0]).unwrap();
        assert!(texts.cache().texts.contains_key(&ids[1]) && !texts.cache().texts.contains_key(&ids[2]));
        let large = ExtractedText { markdown: "x".repeat(3 * one as usize), page_starts: vec![0] };
        texts.put(&large).unwrap();
        assert_eq!(texts.cache().bytes, 2 * one, "what is larger than the cache is not kept");
        let texts = FileTexts::open(dir.path(), DEFAULT_CACHE_BYTES).unwrap();
        for n in 0..CACHED_TEXTS + 20 {
            texts.put(&text(&format!("word {n}"))).unwrap();
        }
        assert_eq!(texts.cache().texts.len(), CACHED_TEXTS);
    }

    #[test]
    fn readers_and_writers_may_meet() {
        let dir = tempfile::tempdir().unwrap();
        let texts = FileTexts::open(dir.path(), 30_000).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..6 {
                        let original = text(&format!("word {n} "));
                        let id = texts.put(&original).unwrap();
                        assert_eq!(*texts.get(&id).unwrap(), original);
                    }
                });
            }
        });
        let damaged = walkdir::WalkDir::new(dir.path()).into_iter().flatten();
        assert_eq!(damaged.filter(|e| e.file_name().to_string_lossy().contains("damaged")).count(), 0);
        assert!(texts.cache().bytes <= 30_000);
    }
}
