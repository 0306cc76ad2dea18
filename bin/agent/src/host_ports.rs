//! Host ports of an ADD: which are asked for, whether the pod can have them, and whose they are.
//!
//! Who has a port is said by the records: one that is being removed gives its ports up as soon as they lead nowhere
//! ([`crate::detach`]), long before its addresses have rested.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tombolo_core::datapath::HostPort;
use tombolo_core::datapath::diff::Op;
use tombolo_core::types::{AttachmentKey, Families, PortMapping, Protocol};
use tombolo_netlink::nft::Mapped;
use tombolo_rpc as rpc;
use tracing::warn;

use crate::error::{Error, Leaving, families_word};
use crate::journal::Phase;
use crate::node::{Node, Taken};

/// Most entries of one pod: they bound what the journal keeps of it.
pub const MOST: usize = 1024;

/// Checks what the plugin passed on. Sorted, each once.
pub fn of_request(asked: &[rpc::PortMapping]) -> Result<Vec<PortMapping>, Error> {
    if asked.len() > MOST {
        let (field, limit, unit) = ("host_ports", MOST, "entries");
        return Err(Error::TooLong { field, limit, unit });
    }
    let mut mappings = BTreeSet::new();
    let mut targets = BTreeMap::new();
    for (index, each) in asked.iter().enumerate() {
        let mapping = mapping(index, each)?;
        if mapping.host_ip == Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
            warn!(port = %mapping, "the kernel takes no answer from a link for ::1: it will be refused there");
        }
        for host in mapping.hosts() {
            let port = HostPort {
                host,
                protocol: mapping.protocol,
                port: mapping.host_port,
            };
            let to = mapping.container_port;
            if *targets.entry(port).or_insert(to) != to {
                let (value, problem) =
                    (each.host_port.to_string(), "leads to two ports of the pod");
                return Err(invalid(index, "hostPort", value, problem));
            }
        }
        mappings.insert(mapping);
    }
    Ok(mappings.into_iter().collect())
}

fn mapping(index: usize, each: &rpc::PortMapping) -> Result<PortMapping, Error> {
    let port = |field, value: u32| {
        let number = u16::try_from(value).ok().filter(|number| *number > 0);
        number.ok_or_else(|| invalid(index, field, value.to_string(), "must be 1 to 65535"))
    };
    let protocol: Protocol = each.protocol.parse().map_err(|_| {
        let problem = "must be TCP, UDP or SCTP";
        invalid(index, "protocol", shortened(&each.protocol), problem)
    })?;
    let host_ip = match each.host_ip.as_str() {
        "" => None,
        text => {
            let ip: IpAddr = text
                .parse()
                .map_err(|_| invalid(index, "hostIP", shortened(text), "is not an IP address"))?;
            Some(ip.to_canonical())
        }
    };
    Ok(PortMapping {
        host_ip,
        host_port: port("hostPort", each.host_port)?,
        container_port: port("containerPort", each.container_port)?,
        protocol,
    })
}

fn invalid(index: usize, field: &'static str, value: String, problem: &'static str) -> Error {
    Error::HostPort {
        index,
        field,
        value,
        problem,
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Whether pods here have an address of the family that each asks for. One that asks for both takes what there is.
pub fn have_families(mappings: &[PortMapping], families: Families) -> Result<(), Error> {
    let served = |mapping: &PortMapping| {
        let mut hosts = mapping.hosts();
        hosts.any(|host| families.contains(host.family()))
    };
    match mappings.iter().position(|mapping| !served(mapping)) {
        None => Ok(()),
        Some(index) => {
            let given = mappings.get(index).and_then(|mapping| mapping.host_ip);
            let problem = match families_word(families) {
                "IPv4" => "is of a family that pods here do not have: they have IPv4",
                _ => "is of a family that pods here do not have: they have IPv6",
            };
            let value = given.map(|ip| ip.to_string()).unwrap_or_default();
            Err(invalid(index, "hostIP", value, problem))
        }
    }
}

/// Waits until no other attachment has any of these: for one that goes, within the bound; one that stays is told of at once.
pub async fn free(
    node: &Node,
    key: &AttachmentKey,
    ports: &[PortMapping],
    wait: Duration,
) -> Result<(), Error> {
    let mut changes = node.changed.subscribe();
    let look = async {
        loop {
            match node.taken(key, ports) {
                None => return Ok(()),
                Some(taken) if taken.owner.phase == Phase::Draining => {
                    changes.changed().await.map_err(|_| Error::Stopping)?;
                }
                Some(taken) => return Err(conflict(taken)),
            }
        }
    };
    match tokio::time::timeout(wait, look).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => node
            .taken(key, ports)
            .map_or(Ok(()), |taken| Err(owned(*taken, Leaving(Some(wait))))),
    }
}

/// The error that names the owner.
pub fn conflict(taken: Box<Taken>) -> Error {
    owned(*taken, Leaving(None))
}

fn owned(taken: Taken, leaving: Leaving) -> Error {
    let Taken { port, owner } = taken;
    let owner = format!("{} ({})", owner.pod, owner.key);
    Error::HostPortConflict {
        port,
        owner,
        leaving,
    }
}

/// Host ports that lead elsewhere than before once these operations are done.
pub fn that_came(ops: &[Op]) -> Vec<Mapped> {
    let of = |op: &Op| -> Vec<Mapped> {
        match op {
            Op::ReplaceNat(state) => state.host_ports.clone().into_iter().collect(),
            Op::UpdateNat(change) => {
                let (from, to) = change.as_ref();
                let new = to.host_ports.iter();
                new.filter(|(port, to)| from.host_ports.get(port) != Some(to))
                    .map(|(port, to)| (*port, *to))
                    .collect()
            }
            _ => Vec::new(),
        }
    };
    ops.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(
        host_ip: &str,
        host_port: u32,
        container_port: u32,
        protocol: &str,
    ) -> rpc::PortMapping {
        rpc::PortMapping {
            host_port,
            container_port,
            protocol: protocol.to_owned(),
            host_ip: host_ip.to_owned(),
        }
    }

    #[test]
    fn what_runtimes_send_is_understood_and_sorted() {
        let list = [
            asked("::ffff:10.0.0.1", 81, 80, "UDP"),
            asked("", 80, 8080, "tcp"),
            asked("", 80, 8080, "TCP"),
            asked("::", 80, 8080, "Sctp"),
        ];
        let found: Vec<_> = of_request(&list)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["tcp *:80", "udp 10.0.0.1:81", "sctp [::]:80"]);
    }

    #[test]
    fn errors_name_the_entry_and_the_field() {
        for (list, start) in [
            (
                vec![asked("", 0, 80, "tcp")],
                "portMappings[0].hostPort \"0\"",
            ),
            (
                vec![asked("", 65536, 80, "tcp")],
                "portMappings[0].hostPort \"65536\"",
            ),
            (
                vec![asked("", 80, 0, "tcp")],
                "portMappings[0].containerPort \"0\"",
            ),
            (
                vec![asked("", 80, 80, "icmp")],
                "portMappings[0].protocol \"icmp\"",
            ),
            (
                vec![asked("x", 80, 80, "tcp")],
                "portMappings[0].hostIP \"x\"",
            ),
            (
                vec![asked("", 80, 80, "tcp"), asked("::", 80, 81, "tcp")],
                "portMappings[1].hostPort \"80\" leads to two",
            ),
        ] {
            let error = of_request(&list).unwrap_err();
            assert!(error.to_string().starts_with(start), "{error}: {start}");
            assert_eq!(error.reason(), tombolo_core::types::Reason::InvalidConfig);
        }
        let many = vec![asked("", 80, 80, "tcp"); MOST + 1];
        assert!(matches!(
            of_request(&many),
            Err(Error::TooLong { limit: MOST, .. })
        ));
    }

    #[test]
    fn a_family_that_pods_do_not_have_is_refused_unless_both_are_asked_for() {
        let of = |ip: &str| of_request(&[asked(ip, 80, 80, "tcp")]).unwrap();
        for (ip, families, served) in [
            ("", Families::V4, true),
            ("", Families::V6, true),
            ("fd00::1", Families::V4, false),
            ("0.0.0.0", Families::V6, false),
            ("fd00::1", Families::Dual, true),
        ] {
            assert_eq!(
                have_families(&of(ip), families).is_ok(),
                served,
                "{ip} {families:?}"
            );
        }
    }
}
