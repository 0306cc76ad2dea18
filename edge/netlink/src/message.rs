//! Netlink messages as bytes: one builder for all families, and a reader of attributes.

use rustix::io::Errno;

/// One message to the kernel, with the words that an error about it uses.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) operation: &'static str,
    pub(crate) subject: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) tolerated: Option<Errno>,
}

impl Request {
    /// Counts this error as success (for example: already there).
    #[must_use]
    pub fn tolerate(mut self, errno: Errno) -> Self {
        self.tolerated = Some(errno);
        self
    }
}
