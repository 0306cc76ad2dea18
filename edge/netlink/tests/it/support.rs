//! Fresh namespaces, and the tools that look into them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tombolo_core::types::AttachmentKey;
use tombolo_netlink::Netns;

/// Runs a test on a thread of its own in a fresh network namespace, with `lo` up. Skips it, saying so, where that is not
/// allowed or a tool is missing; in CI that is a failure.
pub fn in_fresh_netns(test: &str, body: impl FnOnce() + Send + 'static) {
    for tool in ["ip", "nft"] {
        if Command::new(tool).arg("-V").output().is_err() {
            return skip(test, &format!("no {tool}"));
        }
    }
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare() {
            return Some(format!("unshare: {errno}"));
        }
        run("ip", "link set lo up");
        body();
        None
    });
    match thread.join() {
        Ok(None) => {}
        Ok(Some(reason)) => skip(test, &reason),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test}: {reason}"
    );
    println!("SKIP {test}: {reason}");
}

/// A further namespace, which lives as long as the value.
pub fn other_netns() -> Netns {
    let thread = std::thread::spawn(|| {
        unshare().unwrap();
        run("ip", "link set lo up");
        Netns::own().unwrap()
    });
    thread.join().unwrap()
}

fn unshare() -> rustix::io::Result<()> {
    #[expect(unsafe_code, reason = "a fresh namespace for the calling thread")]
    // SAFETY: only the network namespace is unshared, no descriptors.
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)
    }
}

/// Runs a tool in the calling thread's namespace; words are separated by spaces.
pub fn run(tool: &str, arguments: &str) -> String {
    let output = Command::new(tool)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `ip -j` and decodes what it prints.
pub fn ip(arguments: &str) -> Vec<Value> {
    let text = run("ip", &format!("-j -d {arguments}"));
    if text.trim().is_empty() {
        Vec::new()
    } else {
        serde_json::from_str(&text).unwrap()
    }
}

/// Packets that the rule with this comment counted.
pub fn counted(table: &str, comment: &str) -> u64 {
    let text = run("nft", &format!("-j list table {table}"));
    let all: Value = serde_json::from_str(&text).unwrap();
    let rules = all["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| &object["rule"]);
    let rule = rules.into_iter().find(|rule| rule["comment"] == comment);
    let rule = rule.unwrap_or_else(|| panic!("no rule {comment:?} in {text}"));
    let mut counters = rule["expr"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|expr| expr["counter"]["packets"].as_u64());
    counters
        .next()
        .unwrap_or_else(|| panic!("no counter in {rule}"))
}

/// Adds an IPv6 address to `lo`, and waits for the route that the kernel adds on its own time.
pub fn add_v6_to_lo(ip: &str) {
    run("ip", &format!("-6 addr add {ip}/128 dev lo nodad"));
    eventually("the address receives", || {
        run("ip", &format!("-6 route show table local {ip}")).contains("local")
    });
}

/// Waits until something is so that the kernel does on its own time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "not within 30 s: {what}");
        std::thread::yield_now();
    }
}

pub fn key(container: &str) -> AttachmentKey {
    AttachmentKey::new("tombolo", container, "eth0").unwrap()
}

/// A UDP socket in a namespace.
pub fn udp(netns: &Netns, ip: impl Into<IpAddr>, port: u16) -> UdpSocket {
    let socket = netns
        .run(|| UdpSocket::bind(SocketAddr::new(ip.into(), port)).unwrap())
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}

/// The next datagram, and where it comes from.
pub fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => return (buffer[..length].to_vec(), from),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("nothing arrived: {error}"),
        }
    }
}

/// Whether the next datagram that arrives is this one.
pub fn receives(socket: &UdpSocket, wanted: &[u8]) -> bool {
    receive(socket).0 == wanted
}
