//! Frames made by hand, and a packet socket to send them with.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::addr::SocketAddrStorage;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrAny, SocketFlags, SocketType, netdevice, socket_with,
};
use tombolo_core::types::Mac;
use tombolo_lab_vpc::fabric::Netns;

use crate::support::inside;

pub const BROADCAST: Mac = Mac([0xff; 6]);
const ETH_IPV4: u16 = 0x0800;
const ETH_ARP: u16 = 0x0806;
const ETH_IPV6: u16 = 0x86dd;

/// Sends whole Ethernet frames from a link.
pub struct Injector {
    socket: OwnedFd,
    to: SocketAddrAny,
}

impl Injector {
    pub fn new(ns: &Netns, link: &str) -> Self {
        let (socket, index) = inside(ns, || {
            let socket = socket_with(
                AddressFamily::PACKET,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            let index = netdevice::name_to_index(&socket, link).unwrap();
            (socket, index)
        });
        Self {
            socket,
            to: link_address(index),
        }
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = rustix::net::sendto(&self.socket, frame, SendFlags::empty(), &self.to).unwrap();
        assert_eq!(sent, frame.len());
    }
}

/// `struct sockaddr_ll` with only the link's index.
#[expect(
    unsafe_code,
    reason = "rustix has no safe type for packet socket addresses"
)]
fn link_address(index: u32) -> SocketAddrAny {
    let mut bytes = [0_u8; 20];
    bytes[0..2].copy_from_slice(&AddressFamily::PACKET.as_raw().to_ne_bytes());
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut storage = std::mem::MaybeUninit::<SocketAddrStorage>::zeroed();
    // SAFETY: the storage is larger than 20 bytes and plain memory; the first 20 are a whole sockaddr_ll, as the length says.
    unsafe {
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            storage.as_mut_ptr().cast::<u8>(),
            bytes.len(),
        );
        SocketAddrAny::new(storage, 20)
    }
}

fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// An ARP request; `frame_from` is the Ethernet source.
pub fn arp(frame_from: Mac, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let body = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &sender.0.0,
        &sender.1.octets(),
        &[0; 6],
        &target.octets(),
    ]
    .concat();
    ethernet(BROADCAST, frame_from, ETH_ARP, &body)
}

/// A UDP datagram over IPv4.
pub fn udp4(
    to: Mac,
    from: Mac,
    source: Ipv4Addr,
    target: Ipv4Addr,
    port: u16,
    text: &[u8],
) -> Vec<u8> {
    let udp_len = u16::try_from(8 + text.len()).unwrap();
    let mut ip = [
        &[0x45, 0][..],
        &(20 + udp_len).to_be_bytes(),
        &[0, 0, 0, 0, 64, 17, 0, 0],
        &source.octets(),
        &target.octets(),
    ]
    .concat();
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    // A zero checksum means none in IPv4.
    let udp = [
        &port.to_be_bytes()[..],
        &port.to_be_bytes(),
        &udp_len.to_be_bytes(),
        &[0, 0],
        text,
    ]
    .concat();
    ethernet(to, from, ETH_IPV4, &[ip, udp].concat())
}

/// A UDP datagram over IPv6.
pub fn udp6(
    to: Mac,
    from: Mac,
    source: Ipv6Addr,
    target: Ipv6Addr,
    port: u16,
    text: &[u8],
) -> Vec<u8> {
    let udp_len = u16::try_from(8 + text.len()).unwrap();
    let udp = [
        &port.to_be_bytes()[..],
        &port.to_be_bytes(),
        &udp_len.to_be_bytes(),
        &[0, 0],
        text,
    ]
    .concat();
    ipv6(to, from, source, target, 17, 64, udp, 6)
}

/// An ICMPv6 message with hop limit 255; the checksum is filled in.
pub fn icmp6(to: Mac, from: Mac, source: Ipv6Addr, target: Ipv6Addr, message: Vec<u8>) -> Vec<u8> {
    ipv6(to, from, source, target, 58, 255, message, 2)
}

/// `sum_at`: where the checksum is in the payload.
#[expect(clippy::too_many_arguments, reason = "a header has that many fields")]
fn ipv6(
    to: Mac,
    from: Mac,
    source: Ipv6Addr,
    target: Ipv6Addr,
    protocol: u8,
    hops: u8,
    mut payload: Vec<u8>,
    sum_at: usize,
) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    let pseudo = [
        &source.octets()[..],
        &target.octets(),
        &u32::from(len).to_be_bytes(),
        &[0, 0, 0, protocol],
        &payload,
    ]
    .concat();
    payload[sum_at..sum_at + 2].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let header = [
        &[0x60, 0, 0, 0][..],
        &len.to_be_bytes(),
        &[protocol, hops],
        &source.octets(),
        &target.octets(),
    ]
    .concat();
    ethernet(to, from, ETH_IPV6, &[header, payload].concat())
}

/// A neighbour solicitation (135) or advertisement (136) with a link-layer option.
pub fn neighbour(kind: u8, target: Ipv6Addr, option: Option<Mac>) -> Vec<u8> {
    let option_kind = if kind == 135 { 1 } else { 2 };
    let option = option
        .map(|mac| [&[option_kind, 1][..], &mac.0].concat())
        .unwrap_or_default();
    let flags = if kind == 136 { 0x60 } else { 0 };
    [
        &[kind, 0, 0, 0, flags, 0, 0, 0][..],
        &target.octets(),
        &option,
    ]
    .concat()
}

/// A router advertisement that would make its sender the default router.
pub fn advertisement() -> Vec<u8> {
    [&[134, 0, 0, 0, 64, 0, 0x07, 0x08][..], &[0; 8]].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
