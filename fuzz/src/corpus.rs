//! Kept inputs, and the input that is being run just now.
//!
//! ```text
//!   fuzz/corpus/<target>/<any name>      kept
//!   fuzz/corpus/<target>/crash-<hash>    kept because it failed once
//!   <target dir>/fuzz/<target>.<pid>     being run: left behind by a process that died of it
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A kept input.
#[derive(Clone, Debug)]
pub struct Kept {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// All kept inputs of a target, by name; none where there is no folder.
pub fn load(folder: &Path) -> io::Result<Vec<Kept>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut kept = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            let bytes = fs::read(&path)?;
            kept.push(Kept { path, bytes });
        }
    }
    kept.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(kept)
}

/// The name under which an input is kept: it follows from its bytes.
pub fn name(folder: &Path, prefix: &str, bytes: &[u8]) -> PathBuf {
    folder.join(format!("{prefix}-{:016x}", hash(bytes)))
}

/// Keeps an input.
pub fn keep(folder: &Path, prefix: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = name(folder, prefix, bytes);
    fs::write(&path, bytes)?;
    Ok(path)
}

/// FNV-1a: the same on every machine and in every version.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The input that is being run, in a file that outlives the process.
#[derive(Debug)]
pub struct Underway {
    path: PathBuf,
    file: File,
}

impl Underway {
    /// Makes the file for this process.
    pub fn open(target: &str) -> io::Result<Self> {
        let folder = folder()?;
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{target}.{}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        Ok(Self { path, file })
    }

    /// Notes what is about to be run.
    pub fn note(&self, input: &[u8]) -> io::Result<()> {
        self.file.set_len(u64::try_from(input.len()).unwrap_or(0))?;
        self.file.write_all_at(input, 0)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        // The process lives: nothing to tell. A file that stays is replayed once in vain.
        drop(fs::remove_file(&self.path));
    }
}

/// Inputs that processes left behind when they died; their files are removed.
pub fn left_behind(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut left = Vec::new();
    let entries = match fs::read_dir(folder()?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(left),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        let pid = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix(target)?.strip_prefix('.'))
            .and_then(|pid| pid.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let lives = Path::new(&format!("/proc/{pid}")).exists();
        if !lives {
            left.push(fs::read(&path)?);
            fs::remove_file(&path)?;
        }
    }
    Ok(left)
}

/// `fuzz` beside `deps`, where the test programs are.
fn folder() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let profile = program.ancestors().nth(2).unwrap_or(Path::new("."));
    Ok(profile.join("fuzz"))
}
