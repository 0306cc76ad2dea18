//! Named namespaces.

use std::fs;
use std::path::PathBuf;

use tombolo_lab_runner::netns::NamedNetns;

use crate::privilege::available;

/// A namespace with a name of its own, removed at the end of the test.
pub struct Temporary(pub NamedNetns);

impl Temporary {
    pub fn new(name: &str) -> Self {
        let name = format!("tst-runner-{}-{name}", std::process::id());
        Self(NamedNetns::create(&PathBuf::from("/run/netns"), &name).unwrap())
    }

    pub fn path(&self) -> String {
        self.0.path().to_str().unwrap().to_owned()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove() {
            println!("left behind: {error}");
        }
    }
}

#[test]
fn is_another_namespace_with_lo_up() {
    if !available("is_another_namespace_with_lo_up", &[]) {
        return;
    }
    let netns = Temporary::new("lo");
    let inside = netns
        .0
        .run(|| {
            std::net::UdpSocket::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
        })
        .unwrap();
    assert!(inside.ip().is_loopback());
    let v6 = netns
        .0
        .run(|| std::net::UdpSocket::bind("[::1]:0").map(drop))
        .unwrap();
    v6.unwrap();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let links = netns
        .0
        .run(|| fs::read_link("/proc/thread-self/ns/net").unwrap())
        .unwrap();
    assert_ne!(own, links);
    assert_eq!(
        own,
        fs::read_link("/proc/thread-self/ns/net").unwrap(),
        "the thread is back"
    );
}

#[test]
fn is_gone_once_removed() {
    if !available("is_gone_once_removed", &[]) {
        return;
    }
    let netns = Temporary::new("gone");
    let path = netns.path();
    assert!(
        NamedNetns::create(
            netns.0.path().parent().unwrap(),
            &path["/run/netns/".len()..]
        )
        .is_err(),
        "taken"
    );
    assert!(
        netns.0.open().is_ok(),
        "the failed second attempt left the first alone"
    );
    netns.0.remove().unwrap();
    assert!(!fs::exists(&path).unwrap());
    assert!(
        !fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(&path)
    );
    netns.0.remove().unwrap();
    assert!(netns.0.open().is_err());
}
