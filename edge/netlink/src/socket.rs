//! A netlink socket: requests with acknowledgement, dumps, batches.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt,
};

use crate::abi::nlm;
use crate::message::{Body, Reply};
use crate::{Error, Netns, Request};

/// Requests that go into one system call at most: their refusals must fit into the receive buffer.
const BATCH_REQUESTS: usize = 128;
/// Bytes that go into one system call at most.
const BATCH_BYTES: usize = 64 * 1024;
/// Receive and send buffer of the socket in bytes (the kernel doubles it). An nf_tables transaction must fit as a whole.
const BUFFER: usize = 4 * 1024 * 1024;
/// One read; the kernel never sends a larger datagram.
const READ: usize = 64 * 1024;
/// The protocol number of rtnetlink is 0, which rustix writes as `None`.
pub(crate) const ROUTE: Option<Protocol> = None;
/// nf_tables and conntrack.
pub(crate) const NETFILTER: Option<Protocol> = Some(netlink::NETFILTER);
/// Messages of one dump, in bytes: a routing table of a million routes takes less than half of it. What comes beyond is read
/// and dropped, and the dump fails: a list that is not whole must not be taken for one.
const DUMP_BYTES: usize = 256 << 20;
/// How often a dump is repeated that the kernel marked as inconsistent because something changed meanwhile.
const DUMP_TRIES: usize = 20;

/// What is wrong with an acknowledgement, or with the end of a list, that holds no error number.
const CUT: &str = "its end is cut short";

/// A netlink socket, bound to the namespace it was opened in whatever thread uses it later.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    seq: u32,
    out: Vec<u8>,
    buffer: Vec<u8>,
    dump_limit: usize,
}

impl Socket {
    /// An rtnetlink socket in the calling thread's namespace.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn route() -> Result<Self, Error> {
        Self::open("rtnetlink", ROUTE)
    }

    /// An rtnetlink socket in another namespace.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn route_in(netns: &Netns) -> Result<Self, Error> {
        netns.run(Self::route)?
    }

    /// A netfilter socket (nf_tables, conntrack) in the calling thread's namespace. Keep it: closing one makes the
    /// kernel wait for pending nf_tables clean-up.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn netfilter() -> Result<Self, Error> {
        Self::open("netfilter", NETFILTER)
    }

    /// A socket for questions about sockets, in the calling thread's namespace.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn sock_diag() -> Result<Self, Error> {
        Self::open("sock_diag", Some(netlink::SOCK_DIAG))
    }

    fn open(name: &str, protocol: Option<Protocol>) -> Result<Self, Error> {
        let failed = |source| Error::System {
            operation: "open netlink socket",
            subject: name.to_owned(),
            source,
        };
        let (fd, port) = open(protocol).map_err(failed)?;
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            set_option(fd.as_fd(), option, 1).map_err(failed)?;
        }
        sockopt::set_socket_send_buffer_size_force(&fd, BUFFER).map_err(failed)?;
        sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER).map_err(failed)?;
        Ok(Self {
            fd,
            port,
            seq: 0,
            out: Vec::new(),
            buffer: Vec::new(),
            dump_limit: DUMP_BYTES,
        })
    }

    /// The port id by which the kernel names this socket in notifications.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement.
    ///
    /// # Errors
    /// [`Error::Refused`] with the kernel's reason; [`Error::System`].
    pub fn request(&mut self, request: Request) -> Result<(), Error> {
        self.batch(vec![request])
    }

    /// Sends all requests in as few system calls as possible and waits until the last is done. Later requests are
    /// carried out also when an earlier one fails (rtnetlink has no transactions); the first error is returned.
    ///
    /// # Errors
    /// As [`Socket::request`], for the first request that failed.
    pub fn batch(&mut self, requests: Vec<Request>) -> Result<(), Error> {
        self.batch_each(requests)?.into_iter().collect()
    }

    /// As [`Socket::batch`], with the outcome of each request in order.
    ///
    /// # Errors
    /// [`Error::System`] where the socket itself fails; what was carried out is not known then.
    pub fn batch_each(&mut self, requests: Vec<Request>) -> Result<Vec<Result<(), Error>>, Error> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let mut chunk = Vec::new();
            let mut bytes = 0;
            while let Some(next) = requests.next_if(|r| {
                chunk.is_empty()
                    || chunk.len() < BATCH_REQUESTS && bytes + r.body.len() <= BATCH_BYTES
            }) {
                bytes += next.body.len();
                chunk.push(next);
            }
            self.chunk(chunk, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    fn chunk(
        &mut self,
        chunk: Vec<Request>,
        outcomes: &mut Vec<Result<(), Error>>,
    ) -> Result<(), Error> {
        let first = self.seq.wrapping_add(1);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        for (index, request) in chunk.iter().enumerate() {
            self.seq = self.seq.wrapping_add(1);
            // Refusals come back in any case, in order; the last acknowledgement tells that there are no more.
            let ack = if index + 1 == chunk.len() {
                nlm::ACK
            } else {
                0
            };
            request.body.finish(ack, self.seq, &mut out);
        }
        let sent = self.send(&out);
        self.out = out;
        let what = |source| Error::System {
            operation: chunk[0].operation,
            subject: format!(
                "{} (and {} more in one message)",
                chunk[0].subject,
                chunk.len() - 1
            ),
            source,
        };
        sent.map_err(what)?;
        let mut verdicts = vec![None; chunk.len()];
        let mut done = false;
        while !done {
            let mut cut = false;
            self.receive(|reply| {
                let index = usize::try_from(reply.seq.wrapping_sub(first)).unwrap_or(usize::MAX);
                if let (nlm::ERROR, Some(slot @ None)) = (reply.kind, verdicts.get_mut(index)) {
                    *slot = reply.verdict();
                    cut |= slot.is_none();
                    done |= index + 1 == chunk.len();
                }
            })
            .map_err(what)?;
            if cut {
                return Err(chunk[0].malformed(CUT));
            }
        }
        outcomes.extend(
            chunk
                .into_iter()
                .zip(verdicts)
                .map(|(request, verdict)| match verdict {
                    Some((Some(errno), message)) if request.tolerated != Some(errno) => {
                        Err(request.refused(errno, message))
                    }
                    _ => Ok(()),
                }),
        );
        Ok(())
    }

    /// Sends one request and hands every message that comes back before its acknowledgement to `each`.
    pub(crate) fn ask(
        &mut self,
        request: Request,
        mut each: impl FnMut(&Reply<'_>),
    ) -> Result<(), Error> {
        let seq = self.submit(&request, nlm::ACK)?;
        loop {
            let mut verdict = None;
            self.receive(|reply| match reply.kind {
                _ if reply.seq != seq || verdict.is_some() => {}
                nlm::ERROR => verdict = Some(reply.verdict()),
                _ => each(reply),
            })
            .map_err(|source| system(&request, source))?;
            match verdict {
                None => {}
                Some(None) => return Err(request.malformed(CUT)),
                Some(Some((Some(errno), message))) if request.tolerated != Some(errno) => {
                    return Err(request.refused(errno, message));
                }
                Some(Some(_)) => return Ok(()),
            }
        }
    }

    /// Asks for a list and decodes each of its members; what `decode` answers with `None` is left out. Repeated when the
    /// kernel says that the list changed while it was read.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(&Reply<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_TRIES {
            let seq = self.submit(request, nlm::DUMP)?;
            let mut found = Vec::new();
            let mut interrupted = false;
            let mut end = None;
            let (mut bytes, limit) = (0_usize, self.dump_limit);
            while end.is_none() {
                let read = self.receive(|reply| {
                    if reply.seq != seq || end.is_some() {
                        return;
                    }
                    interrupted |= reply.flags & nlm::DUMP_INTR != 0;
                    match reply.kind {
                        nlm::DONE | nlm::ERROR => end = Some(reply.verdict()),
                        _ if bytes > limit => {}
                        _ => found.extend(decode(reply)),
                    }
                });
                bytes = bytes.saturating_add(read.map_err(|source| system(request, source))?);
            }
            match end.flatten() {
                None => return Err(request.malformed(CUT)),
                Some((Some(errno), message)) => {
                    return Err(request.clone().refused(errno, message));
                }
                Some(_) if bytes > limit => return Err(request.too_long(limit)),
                Some(_) if interrupted => {}
                Some(_) => return Ok(found),
            }
        }
        Err(request.malformed("the list kept changing while it was read"))
    }

    /// Sends messages that together form one nf_tables transaction; the kernel carries out all or none. The error names
    /// the first message that it refused.
    pub(crate) fn transaction(
        &mut self,
        begin: &Body,
        requests: &[Request],
        end: &Body,
    ) -> Result<(), Error> {
        let Some((last, _)) = requests.split_last() else {
            return Ok(());
        };
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let first = self.seq.wrapping_add(1);
        begin.finish(0, first, &mut out);
        for (index, request) in requests.iter().enumerate() {
            let seq = first
                .wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
                .wrapping_add(1);
            // Errors come back in any case; one acknowledgement tells the end.
            let ack = if index + 1 == requests.len() {
                nlm::ACK
            } else {
                0
            };
            request.body.finish(ack, seq, &mut out);
            self.seq = seq;
        }
        let last_seq = self.seq;
        self.seq = self.seq.wrapping_add(1);
        end.finish(0, self.seq, &mut out);
        let sent = self.send(&out);
        self.out = out;
        sent.map_err(|source| system(last, source))?;
        let mut failure = None;
        let mut done = false;
        while !done {
            let mut cut = false;
            self.receive(|reply| {
                let index = usize::try_from(reply.seq.wrapping_sub(first)).unwrap_or(usize::MAX);
                if reply.kind != nlm::ERROR || index > requests.len() {
                    return;
                }
                match reply.verdict() {
                    None => cut = true,
                    Some((Some(errno), message)) if failure.is_none() => {
                        failure = Some((index.max(1), errno, message));
                    }
                    Some(_) => {}
                }
                // A failure of the transaction as a whole is reported for its first message.
                done |= reply.seq == last_seq || reply.seq == first;
            })
            .map_err(|source| system(last, source))?;
            if cut {
                return Err(last.malformed(CUT));
            }
        }
        match failure {
            Some((index, errno, message)) => {
                Err(requests[index - 1].clone().refused(errno, message))
            }
            None => Ok(()),
        }
    }

    fn submit(&mut self, request: &Request, flags: u16) -> Result<u32, Error> {
        self.seq = self.seq.wrapping_add(1);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        request.body.finish(flags, self.seq, &mut out);
        let sent = self.send(&out);
        self.out = out;
        sent.map_err(|source| system(request, source))?;
        Ok(self.seq)
    }

    fn send(&self, bytes: &[u8]) -> rustix::io::Result<()> {
        retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty())).map(drop)
    }

    /// Reads one datagram and hands its messages to `each`; its length.
    fn receive(&mut self, each: impl FnMut(&Reply<'_>)) -> rustix::io::Result<usize> {
        if self.buffer.is_empty() {
            self.buffer.resize(READ, 0);
        }
        receive(self.fd.as_fd(), &mut self.buffer, RecvFlags::empty(), each)
    }
}

fn system(request: &Request, source: Errno) -> Error {
    Error::System {
        operation: request.operation,
        subject: request.subject.clone(),
        source,
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A bound socket in the calling thread's namespace, and the port id that the kernel gave it.
pub(crate) fn open(protocol: Option<Protocol>) -> rustix::io::Result<(OwnedFd, u32)> {
    let fd = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
    // From now on only the kernel may send to it.
    rustix::net::connect(&fd, &SocketAddrNetlink::new(0, 0))?;
    let address = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?;
    Ok((fd, address.pid()))
}

/// Reads one datagram and hands its messages to `each`; its length. One that is empty or that ends within a message is
/// `EBADMSG`, one that is longer than the buffer `EMSGSIZE`.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
    mut each: impl FnMut(&Reply<'_>),
) -> rustix::io::Result<usize> {
    let (length, whole) =
        retry_on_intr(|| rustix::net::recv(fd, &mut *buffer, flags | RecvFlags::TRUNC))?;
    if whole > length {
        return Err(Errno::MSGSIZE);
    }
    let mut rest = &buffer[..length];
    while let Some((reply, next)) = Reply::split(rest) {
        each(&reply);
        rest = next;
    }
    if length == 0 || !rest.is_empty() {
        return Err(Errno::BADMSG);
    }
    Ok(length)
}

pub(crate) fn set_option(fd: BorrowedFd<'_>, option: c_int, value: u32) -> rustix::io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or_default();
    #[expect(unsafe_code, reason = "rustix has no options of the netlink level")]
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes from a u32 that lives through the call.
    let outcome = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&value).cast(),
            length,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// The error of the system call that failed just now.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;
