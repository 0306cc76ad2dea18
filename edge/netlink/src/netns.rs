//! Network namespaces: open, verify, enter and leave.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::Error;

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
    pub fn own() -> Result<Self, Error> {
        todo!()
    }

    /// Opens a namespace by path (`/proc/<pid>/ns/net`, `/run/netns/<name>`).
    ///
    /// # Errors
    /// [`Error::NotNetns`] where the file is something else.
    pub fn open(_path: &Path) -> Result<Self, Error> {
        todo!()
    }

    /// Takes a descriptor that should be a namespace.
    pub fn from_fd(_fd: OwnedFd) -> Result<Self, Error> {
        todo!()
    }

    /// Opens the namespace that process `pid` holds open as descriptor `fd`, and verifies that it is `expected`.
    pub fn of_process_fd(_pid: u32, _fd: u32, _expected: NetnsId) -> Result<Self, Error> {
        todo!()
    }

    /// Device and inode.
    #[must_use]
    pub const fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `f` on the calling thread inside this namespace, then returns the thread to the namespace it came from,
    /// also when `f` panics. If that return fails the process aborts: a thread in the wrong namespace must not go on.
    /// `f` must not await or hand work to other threads.
    pub fn run<T>(&self, _f: impl FnOnce() -> T) -> Result<T, Error> {
        todo!()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
