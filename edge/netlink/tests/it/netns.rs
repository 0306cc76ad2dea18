use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use tombolo_netlink::{Error, Netns, NetnsId, Socket, link};

use crate::support::{in_fresh_netns, ip, other_netns, run};

#[test]
fn a_thread_returns_to_its_namespace_also_after_a_panic() {
    in_fresh_netns("netns_return", || {
        let home = Netns::own().unwrap().id();
        let other = other_netns();
        assert_ne!(home, other.id());
        assert_eq!(
            other.run(|| Netns::own().unwrap().id()).unwrap(),
            other.id()
        );
        assert_eq!(Netns::own().unwrap().id(), home);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            other.run(|| panic!("inside"))
        }));
        assert!(panicked.is_err());
        assert_eq!(Netns::own().unwrap().id(), home);
    });
}

#[test]
fn a_namespace_is_taken_from_another_process_only_if_it_is_the_one() {
    in_fresh_netns("netns_of_process_fd", || {
        let other = other_netns();
        let pid = std::process::id();
        let fd = u32::try_from(other.as_fd().as_raw_fd()).unwrap();
        assert_eq!(
            Netns::of_process_fd(pid, fd, other.id()).unwrap().id(),
            other.id()
        );

        let wrong = NetnsId {
            ino: other.id().ino + 1,
            ..other.id()
        };
        assert!(matches!(
            Netns::of_process_fd(pid, fd, wrong),
            Err(Error::OtherNetns { .. })
        ));
        assert!(
            Netns::of_process_fd(pid, 1_000_000, other.id())
                .unwrap_err()
                .is_missing()
        );
    });
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    for path in ["/proc/self/ns/mnt", "/proc/self/stat", "/dev/null", "/"] {
        assert!(
            matches!(Netns::open(Path::new(path)), Err(Error::NotNetns { .. })),
            "{path}"
        );
    }
    assert!(
        Netns::open(Path::new("/run/netns/absent"))
            .unwrap_err()
            .is_missing()
    );
    let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    assert!(matches!(Netns::from_fd(file), Err(Error::NotNetns { .. })));
}

#[test]
fn a_socket_stays_in_the_namespace_where_it_was_opened() {
    in_fresh_netns("netns_socket", || {
        let other = other_netns();
        other
            .run(|| {
                run(
                    "ip",
                    "link add tst-nl-there type veth peer name tst-nl-peer",
                )
            })
            .unwrap();
        let mut socket = Socket::route_in(&other).unwrap();
        assert!(
            link::by_name(&mut socket, "tst-nl-there")
                .unwrap()
                .is_some()
        );
        assert!(
            link::by_name(&mut Socket::route().unwrap(), "tst-nl-there")
                .unwrap()
                .is_none()
        );
        assert_eq!(ip("link show").len(), 1);
    });
}
