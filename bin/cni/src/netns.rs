//! The pod's network namespace: opened, examined, and held open while the agent works in it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use tombolo_rpc::NetnsRef;

/// Type of the file system behind namespace files (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;
const OWN: &str = "/proc/self/ns/net";

/// `CNI_NETNS` is no namespace for a pod.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("open CNI_NETNS {path:?}")]
    Open {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("CNI_NETNS {path:?} is not a namespace")]
    NotANamespace { path: String },
    #[error("CNI_NETNS {path:?} is the plugin's own namespace (and CNI_NETNS_OVERRIDE is not set)")]
    Own { path: String },
    #[error("examine {path:?}")]
    Examine {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// An open namespace. The agent finds it by the descriptor's number: it must live until the agent has answered.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    path: String,
    dev: u64,
    ino: u64,
}

impl Netns {
    pub fn open(path: &str, allow_own: bool) -> Result<Self, NetnsError> {
        let examine = |path: &str, source: rustix::io::Errno| NetnsError::Examine {
            path: path.to_owned(),
            source: source.into(),
        };
        let fd = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        )
        .map_err(|source| NetnsError::Open {
            path: path.to_owned(),
            source: source.into(),
        })?;
        let file_system = rustix::fs::fstatfs(&fd).map_err(|source| examine(path, source))?;
        if file_system.f_type != NSFS_MAGIC {
            return Err(NetnsError::NotANamespace {
                path: path.to_owned(),
            });
        }
        let stat = rustix::fs::fstat(&fd).map_err(|source| examine(path, source))?;
        if !allow_own {
            let own = rustix::fs::stat(OWN).map_err(|source| examine(OWN, source))?;
            if (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino) {
                return Err(NetnsError::Own {
                    path: path.to_owned(),
                });
            }
        }
        Ok(Self {
            fd,
            path: path.to_owned(),
            dev: stat.st_dev,
            ino: stat.st_ino,
        })
    }

    /// How the agent finds it.
    pub fn reference(&self) -> NetnsRef {
        NetnsRef {
            fd: self.fd.as_raw_fd(),
            dev: self.dev,
            ino: self.ino,
            path: self.path.clone(),
        }
    }
}
