//! Network namespaces: open, make, run code inside.

use std::fs::File;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::{self, CommandError};

/// Normally a millisecond; long enough for a machine that does much else.
const ACTIVE_WITHIN: Duration = Duration::from_secs(3);

/// A namespace operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum NsError {
    /// The path cannot be opened.
    #[error("open network namespace {path}")]
    Open {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread cannot enter.
    #[error("enter network namespace {path}")]
    Enter {
        /// The path it was opened by.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The instance's namespace could not be opened; that error was reported for the instance.
    #[error("the network namespace of {0} is not open")]
    NotOpen(String),
    /// The code that ran inside panicked.
    #[error("code inside network namespace {0} panicked")]
    Panicked(String),
    /// Code inside failed.
    #[error("{what} in network namespace {path}")]
    Io {
        /// The operation.
        what: String,
        /// The namespace.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A link with both ends up does not become able to send.
    #[error("link {0} is still not active")]
    NotActive(String),
    /// An address that was added does not become usable.
    #[error("link {0} still does not accept packets to {1}")]
    NotLocal(String, Ipv6Addr),
    /// A router advertisement was sent but gave no route.
    #[error("no IPv6 default route came of the router advertisement")]
    NotAdvertised,
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Where `ip netns` keeps named namespaces.
pub const NAMED: &str = "/run/netns";

/// Whether [`NAMED`] was a mount point before us: the first `ip netns add` on a machine makes it one.
#[derive(Clone, Copy, Debug)]
pub struct NamedMount {
    ours: bool,
}

impl NamedMount {
    /// Looks before the first namespace is made.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn look() -> Result<Self, NsError> {
        let mounts = "/proc/self/mounts";
        let text = std::fs::read_to_string(mounts).map_err(|source| NsError::Open {
            path: mounts.to_owned(),
            source,
        })?;
        let mut points = text.lines().filter_map(|line| line.split(' ').nth(1));
        Ok(Self {
            ours: points.all(|point| point != NAMED),
        })
    }

    /// Takes the mount away again when it is ours and nobody else has a namespace there by now.
    ///
    /// # Errors
    /// It cannot be unmounted.
    pub fn restore(self) -> Result<(), NsError> {
        let empty = std::fs::read_dir(NAMED).is_ok_and(|mut entries| entries.next().is_none());
        if !self.ours || !empty {
            return Ok(());
        }
        match unmount(NAMED, UnmountFlags::empty()) {
            // Another lab was quicker, or none was made.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(NsError::Io {
                what: "unmount the directory of named namespaces".to_owned(),
                path: NAMED.to_owned(),
                source: errno.into(),
            }),
        }
    }
}

/// A network namespace held open; it lives as long as this.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens a namespace by path.
    ///
    /// # Errors
    /// The path cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NsError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| NsError::Open {
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Makes a named namespace and opens it.
    ///
    /// # Errors
    /// `ip netns add` fails, for example because the name is taken.
    pub fn create(name: &str) -> Result<Self, NsError> {
        command::run("ip", &["netns", "add", name], "")?;
        Self::open(format!("{NAMED}/{name}"))
    }

    /// Removes a named namespace.
    ///
    /// # Errors
    /// `ip netns del` fails.
    pub fn remove(name: &str) -> Result<(), NsError> {
        command::run("ip", &["netns", "del", name], "")
            .map(drop)
            .map_err(Into::into)
    }

    /// A path by which our child processes can open the namespace, whatever became of its own.
    #[must_use]
    pub fn child_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Puts the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// Not allowed, or not a network namespace.
    pub fn enter(&self) -> Result<(), NsError> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
            |e| NsError::Enter {
                path: self.path.display().to_string(),
                source: e.into(),
            },
        )
    }

    /// Runs code on a thread inside the namespace and waits for it. Programs that it starts are inside too.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what the code returns.
    pub fn run<T, F>(&self, code: F) -> Result<T, NsError>
    where
        T: Send,
        F: FnOnce() -> Result<T, NsError> + Send,
    {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                code()
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(NsError::Panicked(self.path.display().to_string())))
        })
    }

    /// Wraps an I/O error of code that ran inside.
    pub fn io(&self, what: impl Into<String>) -> impl FnOnce(io::Error) -> NsError {
        let (what, path) = (what.into(), self.path.display().to_string());
        move |source| NsError::Io { what, path, source }
    }
}

/// Sets sysctls (`net/...` = value) of the calling thread's namespace.
///
/// # Errors
/// The first that cannot be written, with its name.
pub fn sysctls<K: AsRef<str>>(settings: &[(K, &str)]) -> Result<(), NsError> {
    for (name, value) in settings {
        let path = format!("/proc/sys/{}", name.as_ref());
        std::fs::write(&path, value).map_err(|source| NsError::Io {
            what: format!("write {value} to {path}"),
            path: "(own)".to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// Names of the links in the calling thread's namespace.
///
/// # Errors
/// `/proc` cannot be read.
pub fn link_names() -> Result<Vec<String>, NsError> {
    // thread-self: /proc/net is the process's namespace, not the thread's.
    let path = "/proc/thread-self/net/dev";
    let text = std::fs::read_to_string(path).map_err(|source| NsError::Io {
        what: format!("read {path}"),
        path: "(own)".to_owned(),
        source,
    })?;
    Ok(text
        .lines()
        .filter_map(|l| Some(l.split_once(':')?.0.trim().to_owned()))
        .collect())
}

/// Waits until a link of the calling thread's namespace sends. The end of a veth that was set up first gets its queue from the
/// kernel's link watch, some time after the other end is up; until then it drops everything.
///
/// # Errors
/// It does not happen.
pub fn await_active(link: &str) -> Result<(), NsError> {
    // LOWER_UP comes too early, and so does the queue's name; the link watch sets the state and starts the queue in one go.
    await_output(&["-o", "link", "show", "dev", link], " state UP ", || {
        NsError::NotActive(link.to_owned())
    })
}

/// Waits until a link of the calling thread's namespace accepts packets to an IPv6 address of its own. The kernel adds an
/// address at once, but its local route and its multicast group later, from a work queue, also without duplicate address
/// detection; until then packets to it are refused.
///
/// # Errors
/// It does not happen.
pub fn await_local(link: &str, address: Ipv6Addr) -> Result<(), NsError> {
    let text = address.to_string();
    let show = ["-6", "route", "show", "table", "local", &text, "dev", link];
    await_output(&show, &text, || NsError::NotLocal(link.to_owned(), address))
}

/// Waits until the calling thread's namespace has a default route from a router advertisement.
///
/// # Errors
/// It does not happen: the namespace takes none (it forwards, or `accept_ra` is off).
pub fn await_advertised() -> Result<(), NsError> {
    let show = ["-6", "route", "show", "default"];
    await_output(&show, "proto ra", || NsError::NotAdvertised)
}

fn await_output(
    arguments: &[&str],
    wanted: &str,
    never: impl FnOnce() -> NsError,
) -> Result<(), NsError> {
    let start = Instant::now();
    while start.elapsed() < ACTIVE_WITHIN {
        if command::run("ip", arguments, "")?.contains(wanted) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(never())
}
