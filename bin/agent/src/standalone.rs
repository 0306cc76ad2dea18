//! Without Kubernetes: NICs and addresses come from a file that holds the spec of a NetResourceSet as JSON. It is read
//! again whenever it changes; a file that cannot be read or decoded changes nothing.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::fs::inotify::WatchFlags;
use tombolo_api::NetResourceSetSpec;
use tracing::{error, info, warn};

use crate::error::{Error, chain};
use crate::inotify;
use crate::node::Node;

/// A node's specification has a few KiB; etcd takes none of more than 1.5 MiB.
const MAX_BYTES: u64 = 4 << 20;

/// The file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} has more than {MAX_BYTES} bytes", path.display())]
    TooLong { path: PathBuf },
    #[error("decode {}", path.display())]
    Decode {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{}", path.display())]
    Refused {
        path: PathBuf,
        #[source]
        source: Box<Error>,
    },
}

/// Reads the file once.
pub async fn read(node: &Arc<Node>, path: &Path) -> Result<(), FileError> {
    let file = path.to_owned();
    let spec = tokio::task::spawn_blocking(move || load(&file)).await;
    let spec = spec.map_err(|ended| FileError::Io {
        operation: "read",
        path: path.to_owned(),
        source: ended.into(),
    })??;
    let refused = |source| FileError::Refused {
        path: path.to_owned(),
        source: Box::new(source),
    };
    node.accept("", 0, spec).await.map_err(refused)?;
    info!(path = %path.display(), "took the node's specification from a file");
    Ok(())
}

/// What the file says.
fn load(path: &Path) -> Result<NetResourceSetSpec, FileError> {
    let io = |source| FileError::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    };
    // Not blocking: the path may name a pipe.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags).open(path);
    let mut bytes = Vec::new();
    let mut limited = file.map_err(io)?.take(MAX_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(io)?;
    if limited.limit() == 0 {
        return Err(FileError::TooLong {
            path: path.to_owned(),
        });
    }
    serde_json::from_slice(&bytes).map_err(|source| FileError::Decode {
        path: path.to_owned(),
        source,
    })
}

/// Follows the file as long as the node lives.
pub async fn run(node: Arc<Node>, path: PathBuf) {
    // A file that is replaced by renaming is another file: the directory is what is watched.
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut changes = match inotify::watch(parent, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO) {
        Ok(changes) => changes,
        Err(error) => {
            return error!(%error, path = %path.display(), "the file's changes will not be seen");
        }
    };
    while changes.recv().await.is_some() {
        if let Err(error) = read(&node, &path).await {
            warn!(error = chain(&error), "the file changed and is not used");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_a_limit_on_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (length, expected) in [(4 << 20, "decode "), ((4 << 20) + 1, "4194304 bytes")] {
            std::fs::write(file.path(), vec![b' '; length]).unwrap();
            let error = load(file.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let endless = load(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(endless, FileError::TooLong { .. }), "{endless}");
    }
}
