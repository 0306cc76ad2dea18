//! Small versioned JSON files: written whole, read without following symbolic links.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::steps;

/// Version of all files that this build writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// No file of ours comes near; a bigger one is not ours.
const MAX_BYTES: u64 = 4 << 20;

/// Why a file of ours could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A directory that must be ours alone is a link, is somebody else's, or is open to others.
    #[error("directory {} {problem}", path.display())]
    Directory {
        path: PathBuf,
        problem: &'static str,
    },
    /// A link or a device where a plain file should be.
    #[error("{} is not a plain file", path.display())]
    NotAFile { path: PathBuf },
    /// Longer than any file of ours.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    /// The content is not what we write.
    #[error("{} cannot be decoded", path.display())]
    Garbage {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// Another version of the agent wrote it.
    #[error("{} has version {found}, this agent reads {wanted}", path.display())]
    Version {
        path: PathBuf,
        found: u64,
        wanted: u32,
    },
    /// The file is named after another attachment or address than the one it holds.
    #[error("{} holds {key}, which has another file name", path.display())]
    Misnamed { path: PathBuf, key: String },
}

impl Error {
    /// Whether the file is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The version beside the members of `T`.
#[derive(serde::Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// Makes a directory that only root may enter, with its parents, or checks the one that is there. Through a descriptor:
/// what is checked is what is changed.
pub fn ensure_dir(path: &Path) -> Result<(), Error> {
    let make = || DirBuilder::new().recursive(true).mode(0o700).create(path);
    let made = steps::START_DIRECTORY.around(make);
    made.map_err(io_error("create directory", path))?;
    let fail = |problem| {
        Err(Error::Directory {
            path: path.to_owned(),
            problem,
        })
    };
    let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY).bits().cast_signed();
    let directory = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if is_link(&error) || error.kind() == io::ErrorKind::NotADirectory => {
            return fail("is a link or not a directory");
        }
        other => other.map_err(io_error("open directory", path))?,
    };
    let found = directory
        .metadata()
        .map_err(io_error("inspect directory", path))?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return fail("belongs to another user");
    }
    if found.mode() & 0o077 != 0 {
        // A host that made the directory for us (a mount, a tmpfiles.d line) may have been more generous.
        let private = std::fs::Permissions::from_mode(0o700);
        steps::START_DIRECTORY_MODE
            .around(|| directory.set_permissions(private))
            .map_err(io_error("restrict directory", path))?;
    }
    Ok(())
}

/// What an open that follows no link says of one.
fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// The finished files of a directory, sorted. Unfinished ones, left by a crash, are removed.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            steps::START_UNFINISHED.around(|| remove(&path))?;
        } else {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a file that this build can read.
pub fn read_versioned<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    read_version(path, VERSION)
}

/// Reads a file of this version.
pub fn read_version<T: DeserializeOwned>(path: &Path, wanted: u32) -> Result<T, Error> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if is_link(&error) => {
            return Err(Error::NotAFile {
                path: path.to_owned(),
            });
        }
        other => other.map_err(io_error("open", path))?,
    };
    let found = file.metadata().map_err(io_error("inspect", path))?;
    if !found.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    // The one byte more tells a file that is too long, also one that grows meanwhile.
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    decode(path, &bytes, wanted)
}

/// What is in a file of this version. The path is for errors.
pub fn decode<T: DeserializeOwned>(path: &Path, bytes: &[u8], wanted: u32) -> Result<T, Error> {
    fits(path, bytes)?;
    let garbage = |source| Error::Garbage {
        path: path.to_owned(),
        source,
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(garbage)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version != u64::from(wanted) => Err(Error::Version {
            path: path.to_owned(),
            found: version,
            wanted,
        }),
        None => Err(garbage(serde::de::Error::missing_field("version"))),
        Some(_) => T::deserialize(value).map_err(garbage),
    }
}

fn fits(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_BYTES) {
        Ok(())
    } else {
        Err(Error::TooLong {
            path: path.to_owned(),
            limit: MAX_BYTES,
        })
    }
}

/// The content of a file. One that would not be read again is not written.
pub fn encode<T: Serialize>(path: &Path, content: &T) -> Result<Vec<u8>, Error> {
    let garbage = |source| Error::Garbage {
        path: path.to_owned(),
        source,
    };
    let bytes = serde_json::to_vec(&Versioned {
        version: VERSION,
        content,
    })
    .map_err(garbage)?;
    fits(path, &bytes)?;
    Ok(bytes)
}

/// Writes a file under a temporary name, then renames it into place.
pub fn write_versioned<T: Serialize>(path: &Path, content: &T) -> Result<(), Error> {
    let bytes = encode(path, content)?;
    let temporary = path.with_extension("tmp");
    steps::FILE_CONTENT.around(|| {
        remove(&temporary)?;
        create(&temporary)?
            .write_all(&bytes)
            .map_err(io_error("write", &temporary))
    })?;
    std::fs::rename(&temporary, path).map_err(io_error("rename into place", path))
}

fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("create", path))
}

/// Removes a file; absent is fine.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Moves a file into `dir` under a name that is not taken there.
pub fn move_aside(path: &Path, dir: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let free = |n: u32| dir.join(format!("{name}.{n}"));
    let target = (0..)
        .map(free)
        .find(|target| target.symlink_metadata().is_err())
        .unwrap_or_else(|| free(0));
    std::fs::rename(path, &target).map_err(io_error("move aside", path))?;
    Ok(target)
}

/// File name without directory and extension.
pub fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}
