//! A note for an agent that does not answer: DEL leaves one and succeeds, so that a node whose agent is being replaced,
//! or is broken, can still be drained. The agent obeys it as soon as it sees it; until then the address stays with the
//! attachment, and is nobody else's.
//!
//! ```text
//!   <directory of the socket>/pending-del/<stem>.json     {"version":1,"key":{…}}
//! ```
//! - The file gets its name when it is complete (an unnamed file, then a link): a plugin that is killed leaves nothing.
//! - The directory is the agent's. It must not be a link, must be root's, and closed to others; else nothing is written.
//! - **There is no directory**, and nobody listens: then there is nothing to detach, and DEL succeeds. The agent makes the
//!   directory before its first attachment, `/run` does not outlive the kernel in which attachments exist, and
//!   `tombolo-agent uninstall` removes it after the last pod link. To fail would hold pods for ever on a node from which
//!   Tombolo was taken away.
//! - Any other failure to write one is a failure of DEL, which the runtime repeats.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tombolo_core::types::{AttachmentKey, DelNote};

use crate::steps;

/// The note could not be left.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("directory {} {problem}", path.display())]
    Directory {
        path: PathBuf,
        problem: &'static str,
    },
    #[error("encode a note")]
    Encode(#[source] serde_json::Error),
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// It is there.
    Note,
    /// No agent has ever been here.
    NoDirectory,
}

/// Leaves a note beside the agent's socket, in place of one that is there.
pub fn leave(socket: &Path, key: AttachmentKey) -> Result<Left, NoteError> {
    let path = socket.with_file_name(DelNote::DIRECTORY);
    let failed = |operation| {
        let path = path.clone();
        move |source: Errno| NoteError::Io {
            operation,
            path,
            source: source.into(),
        }
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Left::NoDirectory),
        opened => opened.map_err(failed("open directory"))?,
    };
    let stat = rustix::fs::fstat(&directory).map_err(failed("examine directory"))?;
    let problem = if stat.st_uid != rustix::process::geteuid().as_raw() {
        Some("belongs to another user")
    } else if stat.st_mode & 0o077 != 0 {
        Some("is open to others")
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(NoteError::Directory { path, problem });
    }

    let name = DelNote::file_name(&key);
    let bytes = serde_json::to_vec(&DelNote::new(key)).map_err(NoteError::Encode)?;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, ".", flags, Mode::RUSR | Mode::WUSR);
    let mut file = std::fs::File::from(file.map_err(failed("make a file in"))?);
    let write = || file.write_all(&bytes).and_then(|()| file.sync_all());
    let written = steps::NOTE_CONTENT.around(write);
    written.map_err(|source| NoteError::Io {
        operation: "write a note in",
        path: path.clone(),
        source,
    })?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    let give_name = |name: &str| {
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, &unnamed, &directory, name, flags)
    };
    // One that a killed plugin left is removed by the agent.
    let spare = format!("{name}.{}.tmp", std::process::id());
    let mut named = steps::NOTE_NAME.around(|| give_name(&name));
    if named == Err(Errno::EXIST) {
        // What has the name may be damaged, or about to be removed by an agent that has just obeyed it. Never without one:
        // whoever left it was told that all is well.
        steps::NOTE_SPARE
            .around(|| give_name(&spare))
            .map_err(failed("name a note in"))?;
        let replace = || rustix::fs::renameat(&directory, &spare, &directory, &name);
        named = steps::NOTE_REPLACE.around(replace);
    }
    named.map_err(failed("name a note in"))?;
    Ok(Left::Note)
}
