//! Host ports: ports of the node that lead to a pod.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Family;

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The word in lower case.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number in an IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Not the name of a protocol that has host ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be TCP, UDP or SCTP")]
pub struct InvalidProtocol;

impl FromStr for Protocol {
    type Err = InvalidProtocol;

    /// Upper and lower case are alike: Kubernetes writes the one, runtimes the other.
    fn from_str(text: &str) -> Result<Self, InvalidProtocol> {
        let is = |one: &Self| one.word().eq_ignore_ascii_case(text);
        Self::ALL.into_iter().find(is).ok_or(InvalidProtocol)
    }
}

/// One entry of a pod's port mappings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The address of the node at which the port answers. `None`: all, of both families; an unspecified one (`0.0.0.0`,
    /// `::`): all of its family.
    pub host_ip: Option<IpAddr>,
    /// The port of the node; not 0.
    pub host_port: u16,
    /// The pod's port; not 0.
    pub container_port: u16,
    /// Of both ports.
    pub protocol: Protocol,
}

/// Which addresses of the node a host port is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostAddress {
    /// All of a family.
    Any(Family),
    /// This one.
    One(IpAddr),
}

impl HostAddress {
    /// Its family.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Any(family) => family,
            Self::One(ip) => Family::of(ip),
        }
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::One(one), Self::One(other)) => one == other,
            _ => self.family() == other.family(),
        }
    }
}

impl PortMapping {
    /// The addresses of the node at which it answers.
    pub fn hosts(&self) -> impl Iterator<Item = HostAddress> + use<> {
        use HostAddress::{Any, One};
        let (first, second) = match self.host_ip {
            None => (Any(Family::V4), Some(Any(Family::V6))),
            Some(ip) if ip.is_unspecified() => (Any(Family::of(ip)), None),
            Some(ip) => (One(ip), None),
        };
        std::iter::once(first).chain(second)
    }

    /// Whether a packet could be meant for both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && self
                .hosts()
                .any(|one| other.hosts().any(|two| one.overlaps(two)))
    }

    /// Whether the node's own processes reach it by a loopback address of IPv4.
    #[must_use]
    pub fn answers_on_loopback4(&self) -> bool {
        self.hosts().any(|host| match host {
            HostAddress::Any(family) => family == Family::V4,
            HostAddress::One(IpAddr::V4(ip)) => ip.is_loopback(),
            HostAddress::One(IpAddr::V6(_)) => false,
        })
    }
}

impl fmt::Display for PortMapping {
    /// The node's side, as people write it: `tcp 0.0.0.0:80`, `udp [fd00::1]:53`; where every address is meant, `tcp *:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host_port,
            protocol,
            ..
        } = self;
        match self.host_ip {
            None => write!(f, "{protocol} *:{host_port}"),
            Some(IpAddr::V4(ip)) => write!(f, "{protocol} {ip}:{host_port}"),
            Some(IpAddr::V6(ip)) => write!(f, "{protocol} [{ip}]:{host_port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host_ip: &str, host_port: u16, protocol: Protocol) -> PortMapping {
        PortMapping {
            host_ip: (!host_ip.is_empty()).then(|| host_ip.parse().unwrap()),
            host_port,
            container_port: 1,
            protocol,
        }
    }

    #[test]
    fn overlap_where_one_packet_could_be_meant_for_both() {
        use Protocol::{Tcp, Udp};
        for (one, two, overlaps) in [
            (at("", 80, Tcp), at("", 80, Tcp), true),
            (at("", 80, Tcp), at("", 80, Udp), false),
            (at("", 80, Tcp), at("", 81, Tcp), false),
            (at("", 80, Tcp), at("10.0.0.1", 80, Tcp), true),
            (at("", 80, Tcp), at("fd00::1", 80, Tcp), true),
            (at("0.0.0.0", 80, Tcp), at("::", 80, Tcp), false),
            (at("0.0.0.0", 80, Tcp), at("127.0.0.1", 80, Tcp), true),
            (at("0.0.0.0", 80, Tcp), at("fd00::1", 80, Tcp), false),
            (at("127.0.0.1", 80, Tcp), at("10.0.0.1", 80, Tcp), false),
            (at("10.0.0.1", 80, Tcp), at("10.0.0.1", 80, Tcp), true),
        ] {
            assert_eq!(one.overlaps(&two), overlaps, "{one} and {two}");
            assert_eq!(two.overlaps(&one), overlaps, "{two} and {one}");
        }
    }

    #[test]
    fn words_and_numbers_lead_back() {
        for one in Protocol::ALL {
            assert_eq!(one.word().to_uppercase().parse(), Ok(one));
            assert_eq!(Protocol::of_number(one.number()), Some(one));
        }
        assert_eq!("icmp".parse::<Protocol>(), Err(InvalidProtocol));
    }

    #[test]
    fn only_what_answers_there_needs_loopback() {
        for (ip, answers) in [
            ("", true),
            ("0.0.0.0", true),
            ("127.0.0.9", true),
            ("10.0.0.1", false),
            ("::", false),
            ("::1", false),
        ] {
            assert_eq!(
                at(ip, 1, Protocol::Tcp).answers_on_loopback4(),
                answers,
                "{ip}"
            );
        }
    }
}
