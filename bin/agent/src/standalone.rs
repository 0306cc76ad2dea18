//! Without Kubernetes: NICs and addresses come from a file that holds the spec of a NetResourceSet as JSON. It is read
//! again whenever it changes; a file that cannot be read or decoded changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::WatchFlags;
use tombolo_api::NetResourceSetSpec;
use tracing::{error, info, warn};

use crate::error::{Error, chain};
use crate::inotify;
use crate::node::Node;

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
    let io = |source| FileError::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    };
    let bytes = tokio::fs::read(path).await.map_err(io)?;
    let decode = |source| FileError::Decode {
        path: path.to_owned(),
        source,
    };
    let spec: NetResourceSetSpec = serde_json::from_slice(&bytes).map_err(decode)?;
    let refused = |source| FileError::Refused {
        path: path.to_owned(),
        source: Box::new(source),
    };
    node.accept(0, spec).await.map_err(refused)?;
    info!(path = %path.display(), "took the node's specification from a file");
    Ok(())
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
