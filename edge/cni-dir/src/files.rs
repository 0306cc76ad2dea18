//! One file of a directory, written whole or not at all, and removed.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tombolo_failpoint::Point;

/// The plugin has 4 MiB at most.
pub const MAX_PLUGIN_BYTES: u64 = 64 << 20;
/// How long another process may hold a directory: it writes some MiB.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory or a file in it could not be read or written.
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
    /// Something else than a plain file has the name.
    #[error("{} is not a plain file", path.display())]
    NotAFile { path: PathBuf },
    /// It cannot be what it should be.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    /// Another process writes there and does not end.
    #[error("{} is locked by another process for {} s", path.display(), PATIENCE.as_secs())]
    Busy { path: PathBuf },
}

impl Error {
    /// Whether it was not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn failed<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        operation,
        path,
        source: source.into(),
    }
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was there, word for word.
    Unchanged,
    /// It was not there.
    Created,
    /// It was another.
    Replaced,
}

/// The points of one kind of file.
#[derive(Debug)]
pub struct Points {
    pub content: &'static Point,
    pub name: &'static Point,
    pub remove: &'static Point,
}

/// All of a plain file; one that is longer than `limit` is refused.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    // Not blocking: the path may name a pipe.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    contents(file.map_err(failed("open", path))?, path, limit)
}

fn contents(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let metadata = file.metadata().map_err(failed("inspect", path))?;
    if !metadata.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(failed("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLong {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

/// Names of a directory's entries; those that are no text are nobody's that we know. None where there is no directory.
pub fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed("list", dir))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// A directory that only we write to (of all who ask for this lock), as long as this value lives.
#[derive(Debug)]
pub struct Directory {
    fd: File,
    path: PathBuf,
}

impl Directory {
    /// Waits until nobody else of ours writes there.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::DIRECTORY.bits().cast_signed();
        let fd = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let fd = fd.map_err(failed("open directory", path))?;
        let begin = Instant::now();
        loop {
            match fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                // There is no way to wait for a lock that ends.
                Err(Errno::WOULDBLOCK) if begin.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Busy {
                        path: path.to_owned(),
                    });
                }
                Err(error) => return Err(failed("lock", path)(error)),
            }
        }
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// The same; `None` where there is no such directory.
    pub fn lock_existing(path: &Path) -> Result<Option<Self>, Error> {
        match Self::lock(path) {
            Err(error) if error.is_missing() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Gives a file this content and mode. Whoever opens it meanwhile gets the old one or the new one.
    pub fn replace(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        points: &Points,
    ) -> Result<Outcome, Error> {
        let outcome = match self.found(name, content.len() as u64)? {
            Some((found, found_mode)) if found == content && found_mode == mode => {
                return Ok(Outcome::Unchanged);
            }
            Some(_) => Outcome::Replaced,
            None => Outcome::Created,
        };
        let (whole, to) = (temporary(name), self.path.join(name));
        let from = self.path.join(&whole);
        points
            .content
            .around(|| self.write_whole(&whole, content, mode))
            .map_err(failed("write", &from))?;
        points
            .name
            .around(|| fs::renameat(&self.fd, whole.as_str(), &self.fd, name))
            .map_err(failed("rename to", &to))?;
        self.keep()?;
        Ok(outcome)
    }

    /// Content and mode of a plain file that may have been ours; of one that is longer than ours, what ours would have had
    /// and a byte more.
    fn found(&self, name: &str, length: u64) -> Result<Option<(Vec<u8>, u32)>, Error> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            // A link in our place, or what cannot be opened: replaced, not followed.
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Some((Vec::new(), 0))),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(failed("inspect", &path))?;
        if metadata.is_dir() {
            return Err(Error::NotAFile { path });
        }
        if !metadata.is_file() {
            return Ok(Some((Vec::new(), 0)));
        }
        let mut bytes = Vec::new();
        let read = file.take(length + 1).read_to_end(&mut bytes);
        read.map_err(failed("read", &path))?;
        Ok(Some((bytes, metadata.mode() & 0o7777)))
    }

    /// Everything about a file but its name, and that it is on the disk. One that was left half-written gives way.
    fn write_whole(&self, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        file.write_all(content)?;
        // Whatever the process's mask says.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    }

    /// Removes a file, and what was left of one that was being written; whether it was there.
    pub fn remove(&self, name: &str, points: &Points) -> Result<bool, Error> {
        let mut removed = false;
        for (name, counts) in [(name.to_owned(), true), (temporary(name), false)] {
            let gone = points
                .remove
                .around(|| fs::unlinkat(&self.fd, name.as_str(), AtFlags::empty()));
            match gone {
                Ok(()) => removed |= counts,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("remove", &self.path.join(&name))(error)),
            }
        }
        self.keep()?;
        Ok(removed)
    }

    /// Renames a file, never onto another; whether it did.
    pub fn rename(&self, from: &str, to: &str, point: &Point) -> Result<bool, Error> {
        let flags = RenameFlags::NOREPLACE;
        match point.around(|| fs::renameat_with(&self.fd, from, &self.fd, to, flags)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(failed("rename", &self.path.join(from))(error)),
        }
        self.keep()?;
        Ok(true)
    }

    /// What was done to names is on the disk.
    fn keep(&self) -> Result<(), Error> {
        fs::fsync(&self.fd).map_err(failed("synchronise", &self.path))
    }
}

/// In the same directory, and nothing that a runtime reads.
fn temporary(name: &str) -> String {
    format!(".{name}.new")
}
