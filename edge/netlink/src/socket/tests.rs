use rustix::net::{Shutdown, shutdown, socketpair};
use tombolo_fuzz::Target;

use super::*;
use crate::abi::rtm;

/// A socket whose kernel says exactly this, datagram by datagram, and then nothing more.
struct Fake {
    socket: Socket,
    /// Open: what the socket sends must go somewhere.
    _kernel: OwnedFd,
}

fn fake(said: &[&[u8]]) -> Fake {
    let (fd, kernel) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    for datagram in said {
        rustix::net::send(&kernel, datagram, SendFlags::empty()).unwrap();
    }
    shutdown(&kernel, Shutdown::Write).unwrap();
    let socket = Socket {
        fd,
        port: 0,
        seq: 0,
        out: Vec::new(),
        buffer: Vec::new(),
        dump_limit: DUMP_BYTES,
    };
    Fake {
        socket,
        _kernel: kernel,
    }
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Body::new(kind, flags, payload).finish(0, 1, &mut bytes);
    bytes
}

fn request() -> Request {
    Request::new("list", "links", rtm::GETLINK, 0, &[0; 16])
}

const OK: [u8; 4] = [0; 4];

#[test]
fn a_list_ends_with_its_verdict() {
    let list = |said: &[&[u8]]| fake(said).socket.dump(&request(), |reply| Some(reply.kind));
    let (link, done) = (message(16, 0, &[0; 16]), message(nlm::DONE, 0, &OK));
    assert_eq!(list(&[&link, &link, &done]).unwrap(), [16, 16]);
    // An end without error number is no end: what came before must not be taken for the whole list.
    for cut in [message(nlm::DONE, 0, &[]), message(nlm::ERROR, 0, &[0; 3])] {
        let error = list(&[&link, &cut]).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }
    let refused = message(nlm::ERROR, 0, &(-1_i32).to_ne_bytes());
    assert_eq!(
        list(&[&refused]).unwrap_err().errno(),
        None,
        "an error without the request's header is cut short"
    );
    // Within a message, empty, longer than our buffer.
    let said: [(&[u8], Errno); 3] = [
        (&link[..20], Errno::BADMSG),
        (&[], Errno::BADMSG),
        (&[0; READ + 1], Errno::MSGSIZE),
    ];
    for (datagram, errno) in said {
        let error = list(&[datagram, &done]).unwrap_err();
        assert_eq!(error.errno(), Some(errno), "{error}");
    }
}

#[test]
fn a_list_has_a_limit_on_its_size() {
    let (link, done) = (message(16, 0, &[0; 16]), message(nlm::DONE, 0, &OK));
    let list = |limit| {
        let mut fake = fake(&[&link, &link, &link, &done]);
        fake.socket.dump_limit = limit;
        fake.socket.dump(&request(), |reply| Some(reply.kind))
    };
    assert_eq!(list(200).unwrap().len(), 3);
    let error = list(20).unwrap_err();
    assert_eq!(
        error.to_string(),
        "list links: the answer is longer than 20 bytes"
    );
}

#[test]
fn an_acknowledgement_that_is_cut_short_is_an_error_and_no_wait() {
    let cut = message(nlm::ERROR, 0, &[0; 2]);
    let malformed = |outcome: Result<(), Error>| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    };
    malformed(fake(&[&cut]).socket.request(request()));
    malformed(fake(&[&cut]).socket.ask(request(), |_| {}));
    let frame = Body::new(16, 0, &[0; 4]);
    malformed(
        fake(&[&cut])
            .socket
            .transaction(&frame, &[request()], &frame),
    );
}

/// The first byte says what is asked, the rest what the kernel says.
#[test]
fn fuzz_whatever_the_kernel_says_every_request_ends() {
    Target::new("netlink-socket").runs(3000).check(|bytes| {
        let Some((how, said)) = bytes.split_first() else {
            return;
        };
        let mut datagrams = vec![said];
        if how & 0x80 != 0 {
            datagrams.clear();
            let mut rest = said;
            while let Some((_, next)) = Reply::split(rest) {
                datagrams.push(&rest[..rest.len() - next.len()]);
                rest = next;
            }
        }
        let Fake { socket, .. } = &mut fake(&datagrams);
        let frame = Body::new(16, 0, &[0; 4]);
        let all = || vec![request().tolerate(Errno::EXIST), request(), request()];
        match how & 3 {
            0 => drop(socket.batch_each(all())),
            1 => drop(socket.ask(request(), |_| {})),
            2 => drop(socket.dump(&request(), |reply| Some(reply.payload.len()))),
            _ => drop(socket.transaction(&frame, &all(), &frame)),
        }
    });
}
