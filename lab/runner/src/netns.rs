//! Named network namespaces of pods: a file below a directory (as `ip netns` has them in /run/netns) on which a
//! namespace is mounted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::UnshareFlags;
use tombolo_netlink::{Netns, Socket, link};

/// Where the namespaces of pods are unless said otherwise.
pub const DIR: &str = "/run/netns";
/// The loopback interface of every namespace.
const LO: u32 = 1;

/// A namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// A call on its file failed.
    #[error("{operation} namespace {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A call on the namespace itself failed.
    #[error("{operation} namespace {}", path.display())]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: tombolo_netlink::Error,
    },
    /// The thread that makes it panicked.
    #[error("make namespace {}: the thread died", path.display())]
    Thread {
        /// The file.
        path: PathBuf,
    },
}

/// A named namespace. Dropping the value leaves it in place: it outlives us on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedNetns {
    path: PathBuf,
}

impl NamedNetns {
    /// Makes `dir/name`, with the loopback interface up.
    ///
    /// # Errors
    /// Where the name is taken, or a call fails; nothing is left then.
    pub fn create(dir: &Path, name: &str) -> Result<Self, NetnsError> {
        let path = dir.join(name);
        let file = |operation| {
            let path = path.clone();
            move |source| NetnsError::File {
                operation,
                path,
                source,
            }
        };
        fs::create_dir_all(dir).map_err(file("make the directory of"))?;
        File::create_new(&path).map_err(file("make the file of"))?;
        let made = std::thread::scope(|scope| scope.spawn(|| make(&path)).join());
        let made = made.unwrap_or_else(|_panic| Err(NetnsError::Thread { path: path.clone() }));
        let named = Self { path };
        match made {
            Ok(()) => Ok(named),
            Err(error) => {
                // The first error says why; that its traces are gone too is the best that we can do.
                let _traces = named.remove();
                Err(error)
            }
        }
    }

    /// The namespace `dir/name`, whether it exists or not.
    #[must_use]
    pub fn existing(dir: &Path, name: &str) -> Self {
        Self {
            path: dir.join(name),
        }
    }

    /// Its file, as it goes into `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it.
    ///
    /// # Errors
    /// Where it is gone or no namespace.
    pub fn open(&self) -> Result<Netns, NetnsError> {
        let failed = |source| NetnsError::Kernel {
            operation: "open",
            path: self.path.clone(),
            source,
        };
        Netns::open(&self.path).map_err(failed)
    }

    /// Runs `f` on this thread inside the namespace; what it starts stays there.
    ///
    /// # Errors
    /// Where it cannot be entered.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let failed = |source| NetnsError::Kernel {
            operation: "enter",
            path: self.path.clone(),
            source,
        };
        self.open()?.run(f).map_err(failed)
    }

    /// Removes it; one that is not there is no error. The kernel keeps it while something still uses it.
    ///
    /// # Errors
    /// Where a call fails.
    pub fn remove(&self) -> Result<(), NetnsError> {
        let failed = |operation| {
            move |source| NetnsError::File {
                operation,
                path: self.path.clone(),
                source,
            }
        };
        match unmount(&self.path, UnmountFlags::DETACH) {
            // Not there, or there but nothing mounted.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(failed("unmount")(errno.into())),
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove the file of")(error))
            }
            _ => Ok(()),
        }
    }
}

/// Runs on a thread of its own, which ends in the new namespace.
fn make(path: &Path) -> Result<(), NetnsError> {
    let file = |operation| {
        move |errno: rustix::io::Errno| NetnsError::File {
            operation,
            path: path.to_owned(),
            source: errno.into(),
        }
    };
    #[expect(unsafe_code, reason = "rustix has no safe unshare")]
    // SAFETY: the descriptor table stays shared; only the network namespace of this thread changes.
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
    unshared.map_err(file("make"))?;
    let kernel = |source| NetnsError::Kernel {
        operation: "set up lo in",
        path: path.to_owned(),
        source,
    };
    let mut socket = Socket::route().map_err(kernel)?;
    socket.request(link::set_up(LO, true)).map_err(kernel)?;
    mount_bind("/proc/thread-self/ns/net", path).map_err(file("mount"))
}
