//! `vpc.yaml`: what the VPC is made of. Parsed and checked whole before anything is created; every error names its field.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use tombolo_cloud_sim::wire::InstanceType;

use crate::catalog;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read VPC configuration {path}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The text is not YAML, has an unknown field, or a value of the wrong type (the source names field and line).
    #[error("parse VPC configuration")]
    Parse(#[from] serde_norway::Error),
    /// A value makes no sense.
    #[error("VPC configuration, field `{field}`: {problem}")]
    Field {
        /// Path of the field, for example `subnets[1].cidr4`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A whole VPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The VPC's cloud name.
    pub id: String,
    /// Ranges of the VPC; the first IPv4 one is its main range.
    pub cidrs: Vec<IpNet>,
    /// MTU of every NIC, in bytes.
    pub mtu: u32,
    /// Subnets, each in a zone.
    pub subnets: Vec<SubnetConfig>,
    /// Added to the built-in types, or replacing one of the same name.
    pub instance_types: Vec<InstanceType>,
    /// The internet behind the VPC.
    pub internet: InternetConfig,
    /// How long the cloud takes.
    pub delays: Delays,
    /// Router advertisements to primary NICs.
    pub ra: RaConfig,
}

/// One subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetConfig {
    /// Cloud name, for example `subnet-a`.
    pub id: String,
    /// Zone; NICs attach only to instances of their zone.
    pub zone: String,
    /// IPv4 range, /16 to /29. As in EC2 the first four addresses and the last are the cloud's.
    pub cidr4: Ipv4Net,
    /// IPv6 range, /48 to /124.
    #[serde(default)]
    pub cidr6: Option<Ipv6Net>,
    /// Tags, which profiles select by.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// The internet: a namespace with hosts, and the public addresses of instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InternetConfig {
    /// Addresses that internet hosts answer on.
    pub hosts: Vec<IpAddr>,
    /// Range that instances get their public IPv4 address from, one each.
    pub public4: Ipv4Net,
    /// MTU of the way out, in bytes.
    pub mtu: u32,
}

/// Times the cloud takes, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delays {
    /// From the attach call until the link appears.
    pub attach_ms: u64,
    /// From the detach call until the link is gone.
    pub detach_ms: u64,
}

/// Router advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaConfig {
    /// Time between unsolicited advertisements, in milliseconds.
    pub interval_ms: u64,
    /// Router lifetime, in seconds.
    pub lifetime_s: u16,
}

impl Default for Config {
    fn default() -> Self {
        let v4 = |a, b, c, d, len| Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len);
        let v6 = |third, fourth, len| {
            Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, third, fourth, 0, 0, 0, 0), len)
        };
        let subnet = |id: &str, zone: &str, n: u8| SubnetConfig {
            id: id.to_owned(),
            zone: zone.to_owned(),
            cidr4: v4(10, 0, n, 0, 24),
            cidr6: Some(v6(1, u16::from(n), 64)),
            tags: BTreeMap::new(),
        };
        Self {
            id: "vpc-1".to_owned(),
            cidrs: vec![v4(10, 0, 0, 0, 16).into(), v6(1, 0, 48).into()],
            mtu: 9001,
            subnets: vec![
                subnet("subnet-a", "zone-a", 1),
                subnet("subnet-b", "zone-b", 2),
            ],
            instance_types: Vec::new(),
            internet: InternetConfig::default(),
            delays: Delays::default(),
            ra: RaConfig::default(),
        }
    }
}

impl Default for InternetConfig {
    fn default() -> Self {
        Self {
            hosts: vec![
                Ipv4Addr::new(203, 0, 113, 10).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10).into(),
            ],
            public4: Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 16),
            mtu: 1500,
        }
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            attach_ms: 300,
            detach_ms: 300,
        }
    }
}

impl Default for RaConfig {
    fn default() -> Self {
        Self {
            interval_ms: 10_000,
            lifetime_s: 1800,
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Parses and checks YAML text. An empty document is the default VPC.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_norway::from_str(text)?
        };
        config.check()?;
        Ok(config)
    }

    /// All instance types: the built-in ones, with this file's over them.
    #[must_use]
    pub fn types(&self) -> BTreeMap<String, InstanceType> {
        catalog::builtin()
            .chain(self.instance_types.iter().cloned())
            .map(|t| (t.name.clone(), t))
            .collect()
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.id.is_empty() {
            return refuse("id", "must not be empty");
        }
        check_mtu("mtu", self.mtu)?;
        check_mtu("internet.mtu", self.internet.mtu)?;
        if !self.cidrs.iter().any(|c| matches!(c, IpNet::V4(_))) {
            return refuse("cidrs", "at least one IPv4 range is wanted");
        }
        for (i, cidr) in self.cidrs.iter().enumerate() {
            let field = format!("cidrs[{i}]");
            if cidr.trunc() != *cidr {
                return refuse(
                    field,
                    format!("{cidr} has host bits; did you mean {}?", cidr.trunc()),
                );
            }
            if let Some(other) = self.cidrs[..i].iter().find(|o| overlap(o, cidr)) {
                return refuse(field, format!("{cidr} overlaps {other}"));
            }
        }
        self.check_subnets()?;
        self.check_types()?;
        self.check_internet()?;
        if self.ra.interval_ms < 100 {
            return refuse("ra.interval_ms", "must be at least 100");
        }
        Ok(())
    }

    fn check_subnets(&self) -> Result<(), ConfigError> {
        if self.subnets.is_empty() {
            return refuse("subnets", "at least one subnet is wanted");
        }
        let mut ids = BTreeSet::new();
        let mut seen: Vec<IpNet> = Vec::new();
        for (i, subnet) in self.subnets.iter().enumerate() {
            let at = |name: &str| format!("subnets[{i}].{name}");
            if subnet.id.is_empty() || !ids.insert(&subnet.id) {
                return refuse(at("id"), format!("{:?} is empty or not unique", subnet.id));
            }
            if subnet.zone.is_empty() {
                return refuse(at("zone"), "must not be empty");
            }
            if !(16..=29).contains(&subnet.cidr4.prefix_len()) {
                return refuse(
                    at("cidr4"),
                    format!("{}: /16 to /29 are allowed", subnet.cidr4),
                );
            }
            if let Some(c6) = subnet
                .cidr6
                .filter(|c| !(48..=124).contains(&c.prefix_len()))
            {
                return refuse(at("cidr6"), format!("{c6}: /48 to /124 are allowed"));
            }
            let nets = [
                ("cidr4", Some(IpNet::V4(subnet.cidr4))),
                ("cidr6", subnet.cidr6.map(IpNet::V6)),
            ];
            for (name, net) in nets {
                let Some(net) = net else { continue };
                if net.trunc() != net {
                    return refuse(
                        at(name),
                        format!("{net} has host bits; did you mean {}?", net.trunc()),
                    );
                }
                if !self.cidrs.iter().any(|c| c.contains(&net)) {
                    return refuse(at(name), format!("{net} is in none of the VPC's ranges"));
                }
                if let Some(other) = seen.iter().find(|o| overlap(o, &net)) {
                    return refuse(at(name), format!("{net} overlaps subnet {other}"));
                }
                seen.push(net);
            }
        }
        Ok(())
    }

    fn check_types(&self) -> Result<(), ConfigError> {
        let mut names = BTreeSet::new();
        for (i, t) in self.instance_types.iter().enumerate() {
            let at = |name: &str| format!("instance_types[{i}].{name}");
            if t.name.is_empty() || !names.insert(&t.name) {
                return refuse(at("name"), format!("{:?} is empty or not unique", t.name));
            }
            if !(1..=64).contains(&t.max_nics) {
                return refuse(
                    at("max_nics"),
                    format!("{}: 1 to 64 are allowed", t.max_nics),
                );
            }
            if t.ipv4_per_nic == 0 {
                return refuse(
                    at("ipv4_per_nic"),
                    "must be at least 1: the NIC's own address",
                );
            }
            if t.ipv6_per_nic == 0 {
                return refuse(
                    at("ipv6_per_nic"),
                    "must be at least 1: the primary NIC's own address",
                );
            }
        }
        Ok(())
    }

    fn check_internet(&self) -> Result<(), ConfigError> {
        let public = IpNet::V4(self.internet.public4);
        if public.trunc() != public || public.prefix_len() > 30 {
            return refuse(
                "internet.public4",
                format!("{public}: a range of at least /30 without host bits is wanted"),
            );
        }
        if let Some(cidr) = self.cidrs.iter().find(|c| overlap(c, &public)) {
            return refuse(
                "internet.public4",
                format!("{public} overlaps the VPC's {cidr}"),
            );
        }
        for (i, host) in self.internet.hosts.iter().enumerate() {
            let inside = self
                .cidrs
                .iter()
                .chain([&public])
                .find(|c| c.contains(host));
            if let Some(cidr) = inside {
                return refuse(
                    format!("internet.hosts[{i}]"),
                    format!("{host} is inside {cidr}"),
                );
            }
        }
        Ok(())
    }
}

fn check_mtu(field: &str, mtu: u32) -> Result<(), ConfigError> {
    // IPv6 needs 1280; a veth takes no more than 65535.
    if (1280..=65_535).contains(&mtu) {
        Ok(())
    } else {
        refuse(field, format!("{mtu}: 1280 to 65535 are allowed"))
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn refuse<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Field {
        field: field.into(),
        problem: problem.into(),
    })
}

#[cfg(test)]
mod tests;
