//! Network namespaces: open, verify, enter and leave.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;
use crate::socket::last_errno;

/// What tells one namespace from another: device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.dev, self.ino)
    }
}

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::System`] where `/proc` is not mounted.
    pub fn own() -> Result<Self, Error> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Opens a namespace by path (`/proc/<pid>/ns/net`, `/run/netns/<name>`).
    ///
    /// # Errors
    /// [`Error::NotNetns`] where the file is something else; [`Error::System`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let subject = || path.display().to_string();
        // Not blocking: the path may name a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|source| Error::System {
            operation: "open namespace",
            subject: subject(),
            source,
        })?;
        Self::verified(fd, subject)
    }

    /// Takes a descriptor that should be a namespace.
    ///
    /// # Errors
    /// [`Error::NotNetns`] where it is something else; [`Error::System`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let subject = format!("descriptor {}", fd.as_raw_fd());
        Self::verified(fd, || subject.clone())
    }

    /// Opens the namespace that process `pid` holds open as descriptor `fd`, and verifies that it is `expected`. Should
    /// the process end meanwhile and its number be reused, the verification fails.
    ///
    /// # Errors
    /// [`Error::System`] where it is closed; [`Error::NotNetns`]; [`Error::OtherNetns`].
    pub fn of_process_fd(pid: u32, fd: u32, expected: NetnsId) -> Result<Self, Error> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let netns = Self::open(Path::new(&path))?;
        if netns.id == expected {
            Ok(netns)
        } else {
            Err(Error::OtherNetns {
                subject: path,
                expected,
                found: netns.id,
            })
        }
    }

    fn verified(fd: OwnedFd, subject: impl Fn() -> String) -> Result<Self, Error> {
        let failed = |source| Error::System {
            operation: "inspect namespace",
            subject: subject(),
            source,
        };
        let kind = namespace_type(fd.as_fd());
        if kind != Some(libc::CLONE_NEWNET) {
            return Err(Error::NotNetns { subject: subject() });
        }
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        Ok(Self {
            fd,
            id: NetnsId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
        })
    }

    /// Device and inode.
    #[must_use]
    pub const fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `f` on the calling thread inside this namespace, then returns the thread to the namespace it came from,
    /// also when `f` panics. If that return fails the process aborts: a thread in the wrong namespace must not go on.
    /// `f` must not await or hand work to other threads.
    ///
    /// # Errors
    /// [`Error::System`] where the namespace cannot be entered; `f` was not run then.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T, Error> {
        let home = Home(Self::own()?);
        enter(self.as_fd()).map_err(|source| Error::System {
            operation: "enter namespace",
            subject: self.id.to_string(),
            source,
        })?;
        let outcome = f();
        drop(home);
        Ok(outcome)
    }
}

/// Brings the thread back when dropped.
struct Home(Netns);

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(errno) = enter(self.0.as_fd()) {
            tracing::error!(%errno, namespace = %self.0.id, "cannot return to the own network namespace: aborting");
            std::process::abort();
        }
    }
}

fn enter(netns: BorrowedFd<'_>) -> rustix::io::Result<()> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
}

/// The `CLONE_NEW…` number of the namespace behind a descriptor; `None` where it is no namespace.
fn namespace_type(fd: BorrowedFd<'_>) -> Option<i32> {
    #[expect(unsafe_code, reason = "rustix has no NS_GET_NSTYPE")]
    // SAFETY: the descriptor is open, and this ioctl takes no argument. On another kind of file it fails (ENOTTY).
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind < 0 {
        tracing::debug!(errno = %last_errno(), "not a namespace");
        return None;
    }
    Some(kind)
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
