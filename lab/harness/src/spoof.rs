//! Forged frames, for the tests that show that they reach nobody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

/// What to forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// UDP from another's IPv4 or IPv6 address.
    Source,
    /// A gratuitous ARP reply for another's IPv4 address.
    Arp,
    /// An unsolicited neighbour advertisement for another's IPv6 address.
    Nd,
    /// A router advertisement.
    Ra,
}

/// Port that forged UDP goes to, for capture filters.
pub const PORT: u16 = 9999;

const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends five of them.
pub fn send(kind: Kind, claim: IpAddr, to: IpAddr, gateway_mac: &str) -> Result<()> {
    let own = own_mac()?;
    let gateway = mac(gateway_mac)?;
    let frame = match (kind, claim, to) {
        (Kind::Source, IpAddr::V4(from), IpAddr::V4(to)) => {
            [ethernet(gateway, own, 0x0800), udp4(from, to)].concat()
        }
        (Kind::Source, IpAddr::V6(from), IpAddr::V6(to)) => {
            let segment = [&[0x30, 0x39][..], &PORT.to_be_bytes(), &[0, 8, 0, 0]].concat();
            [
                ethernet(gateway, own, 0x86dd),
                packet6(from, to, 17, 64, segment, 6),
            ]
            .concat()
        }
        (Kind::Arp, IpAddr::V4(claim), _) => {
            let body = [
                &[0, 1, 8, 0, 6, 4, 0, 2][..],
                &own,
                &claim.octets(),
                &BROADCAST,
                &claim.octets(),
            ]
            .concat();
            [ethernet(BROADCAST, own, 0x0806), body].concat()
        }
        (Kind::Nd, IpAddr::V6(claim), _) => {
            let body = [
                &[136, 0, 0, 0, 0x20, 0, 0, 0][..],
                &claim.octets(),
                &[2, 1],
                &own,
            ]
            .concat();
            [
                ethernet(ALL_NODES_MAC, own, 0x86dd),
                packet6(claim, ALL_NODES, 58, 255, body, 2),
            ]
            .concat()
        }
        (Kind::Ra, IpAddr::V6(claim), _) => {
            let body = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
            [
                ethernet(ALL_NODES_MAC, own, 0x86dd),
                packet6(claim, ALL_NODES, 58, 255, body, 2),
            ]
            .concat()
        }
        _ => bail!("{kind:?} with {claim} to {to}: families do not fit"),
    };
    transmit(&frame, 5)
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes()].concat()
}

fn udp4(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut header = [
        &[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0][..],
        &from.octets(),
        &to.octets(),
    ]
    .concat();
    let sum = checksum(&header);
    header.splice(10..12, sum.to_be_bytes());
    // UDP without checksum is legal in IPv4.
    [
        header,
        [&[0x30, 0x39][..], &PORT.to_be_bytes(), &[0, 8, 0, 0]].concat(),
    ]
    .concat()
}

/// An IPv6 packet whose body's checksum stands at `sum_at`.
fn packet6(
    from: Ipv6Addr,
    to: Ipv6Addr,
    next: u8,
    hops: u8,
    mut body: Vec<u8>,
    sum_at: usize,
) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &[0, 0],
        &length,
        &[0, 0, 0, next],
        &body,
    ]
    .concat();
    body.splice(sum_at..sum_at + 2, checksum(&pseudo).to_be_bytes());
    [
        &[0x60, 0, 0, 0][..],
        &length,
        &[next, hops],
        &from.octets(),
        &to.octets(),
        &body,
    ]
    .concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let mac: tombolo_core::types::Mac = text.parse()?;
    Ok(mac.0)
}

/// /sys shows the namespace that mounted it; `ip` asks the one that we are in.
fn own_mac() -> Result<[u8; 6]> {
    let mut command = std::process::Command::new("ip");
    command.args(["-j", "link", "show", "eth0"]);
    let links: serde_json::Value = serde_json::from_str(&crate::node::output(command)?)?;
    mac(links
        .pointer("/0/address")
        .and_then(serde_json::Value::as_str)
        .context("no address")?)
}

#[expect(unsafe_code, reason = "no safe wrapper for packet sockets")]
fn transmit(frame: &[u8], times: usize) -> Result<()> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("packet socket");
    }
    // SAFETY: just made, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the name is a C string.
    let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = i32::try_from(index)?;
    address.sll_halen = 6;
    for _ in 0..times {
        // SAFETY: both buffers live through the call, and their lengths are given.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?,
            )
        };
        if sent < 0 {
            return Err(std::io::Error::last_os_error()).context("send frame");
        }
    }
    Ok(())
}
