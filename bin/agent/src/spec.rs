//! What the operator's object means for this node: parsed and checked as a whole, so that a bad object changes nothing.
//! The last good one is kept in `<run-dir>/nrs.json`, so that an agent that starts without an API server still serves.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use tombolo_api::{IpFamilies, NetResourceSetSpec, NicEntry};
use tombolo_core::datapath::conventions::MAX_DEVICE_INDEX;
use tombolo_core::ipam::PoolConfig;
use tombolo_core::types::{Families, Mac, Millis, NicId, Reason};

use crate::journal;

/// A field of the specification is malformed or contradicts another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("spec.nics[{index}].{field} {value:?} {problem}")]
    Nic {
        index: usize,
        field: &'static str,
        value: String,
        problem: &'static str,
    },
    #[error("spec.profile.{field} {value:?} {problem}")]
    Profile {
        field: &'static str,
        value: String,
        problem: &'static str,
    },
}

impl Invalid {
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Nic { .. } => Reason::UndecodableObject,
            Self::Profile { .. } => Reason::InvalidProfile,
        }
    }
}

/// Bytes that every IPv6 link must carry (RFC 8200), and what IPv4 hosts must accept (RFC 791).
const MTU_RANGE: std::ops::RangeInclusive<u32> = 1280..=65_535;

/// What this node should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `metadata.generation` of the object; 0 for a file.
    pub generation: i64,
    pub pool: PoolConfig,
    /// How long an ADD waits for supply.
    pub wait: Duration,
    /// MTU of pods in bytes; `None`: the NIC's.
    pub mtu: Option<u32>,
    /// Ranges that are reached without translation.
    pub untranslated: Vec<IpNet>,
    pub snat: bool,
    pub nics: Vec<NicPlan>,
    /// Addresses that the operator wants back.
    pub release: BTreeSet<IpAddr>,
}

/// A NIC as the cloud describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicPlan {
    pub id: NicId,
    pub mac: Mac,
    pub device_index: u16,
    pub subnet4: Ipv4Net,
    pub subnet6: Option<Ipv6Net>,
    pub gateway4: Ipv4Addr,
    pub gateway6: Option<Ipv6Addr>,
    pub primary4: Ipv4Addr,
    pub primary6: Option<Ipv6Addr>,
    pub mtu: u32,
    pub addresses: Vec<IpAddr>,
}

impl Plan {
    /// Checks and converts.
    pub fn new(generation: i64, spec: &NetResourceSetSpec, max_pods: u32) -> Result<Self, Invalid> {
        let profile = &spec.profile;
        let pool = &profile.pool;
        if pool.warm_min > pool.warm_max {
            return Err(Invalid::Profile {
                field: "pool.warmMin",
                value: pool.warm_min.to_string(),
                problem: "is above pool.warmMax",
            });
        }
        if let Some(mtu) = profile.mtu.filter(|mtu| !MTU_RANGE.contains(mtu)) {
            return Err(Invalid::Profile {
                field: "mtu",
                value: mtu.to_string(),
                problem: "must be 1280 to 65535",
            });
        }
        let nics: Vec<NicPlan> = spec
            .nics
            .iter()
            .enumerate()
            .map(|(index, nic)| nic_plan(index, nic))
            .collect::<Result<_, _>>()?;
        check_distinct(&nics)?;
        Ok(Self {
            generation,
            pool: PoolConfig {
                families: match profile.ip_families {
                    IpFamilies::IPv4 => Families::V4,
                    IpFamilies::IPv6 => Families::V6,
                    IpFamilies::DualStack => Families::Dual,
                },
                warm_min: pool.warm_min,
                warm_max: pool.warm_max,
                cooling: Millis::from_secs(u64::from(pool.cooling_seconds)),
                churn_window: Millis::from_secs(u64::from(pool.churn_window_seconds)),
                max_pods,
            },
            wait: Duration::from_secs(u64::from(pool.wait_seconds)),
            mtu: profile.mtu,
            untranslated: spec
                .vpc_cidrs
                .iter()
                .chain(&profile.snat_exclude)
                .copied()
                .collect(),
            snat: profile.snat,
            nics,
            release: spec.release.iter().copied().collect(),
        })
    }
}

impl Plan {
    /// Addresses that are this node's as long as this specification stands: one that is marked for release may be
    /// another's as soon as we agreed.
    pub fn held(&self) -> BTreeSet<IpAddr> {
        let all = self.nics.iter().flat_map(|nic| &nic.addresses);
        all.filter(|ip| !self.release.contains(ip))
            .copied()
            .collect()
    }
}

/// Settings of the pool before anything is known of the node: it has no addresses anyway.
pub const fn unknown_pool(max_pods: u32) -> PoolConfig {
    PoolConfig {
        families: Families::Dual,
        warm_min: 0,
        warm_max: 0,
        cooling: Millis::from_secs(3600),
        churn_window: Millis(0),
        max_pods,
    }
}

fn nic_plan(index: usize, nic: &NicEntry) -> Result<NicPlan, Invalid> {
    let invalid = |field, value: String, problem| Invalid::Nic {
        index,
        field,
        value,
        problem,
    };
    if nic.id.is_empty() {
        return Err(invalid("id", String::new(), "must not be empty"));
    }
    if nic.device_index > MAX_DEVICE_INDEX {
        return Err(invalid(
            "deviceIndex",
            nic.device_index.to_string(),
            "is above 254",
        ));
    }
    if !MTU_RANGE.contains(&nic.mtu) {
        return Err(invalid("mtu", nic.mtu.to_string(), "must be 1280 to 65535"));
    }
    let mac: Mac = nic
        .mac
        .parse()
        .map_err(|_| invalid("mac", nic.mac.clone(), "is not a MAC address"))?;
    let own = [Some(IpAddr::V4(nic.primary4)), nic.primary6.map(IpAddr::V6)];
    if let Some(ip) = nic.addresses.iter().find(|ip| own.contains(&Some(**ip))) {
        return Err(invalid(
            "addresses",
            ip.to_string(),
            "is the NIC's own address",
        ));
    }
    Ok(NicPlan {
        id: NicId(nic.id.clone()),
        mac,
        device_index: nic.device_index,
        subnet4: nic.cidr4,
        subnet6: nic.cidr6,
        gateway4: nic.gateway4,
        gateway6: nic.gateway6,
        primary4: nic.primary4,
        primary6: nic.primary6,
        mtu: nic.mtu,
        addresses: nic.addresses.clone(),
    })
}

fn check_distinct(nics: &[NicPlan]) -> Result<(), Invalid> {
    let mut indices = BTreeSet::new();
    let mut macs = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (index, nic) in nics.iter().enumerate() {
        let twice = |field, value: String| Invalid::Nic {
            index,
            field,
            value,
            problem: "occurs twice",
        };
        if !indices.insert(nic.device_index) {
            return Err(twice("deviceIndex", nic.device_index.to_string()));
        }
        if !macs.insert(nic.mac) {
            return Err(twice("mac", nic.mac.to_string()));
        }
        if !ids.insert(&nic.id) {
            return Err(twice("id", nic.id.to_string()));
        }
        if let Some(ip) = nic.addresses.iter().find(|ip| !addresses.insert(**ip)) {
            return Err(twice("addresses", ip.to_string()));
        }
    }
    Ok(())
}

/// The last specification, on disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cached {
    /// Of the object; empty for a file.
    #[serde(default)]
    pub uid: String,
    pub generation: i64,
    /// The object went back to this generation, and what is kept is what was believed of it.
    #[serde(default)]
    pub doubted: bool,
    pub spec: NetResourceSetSpec,
}

/// Where it is.
pub fn cache_path(run_dir: &Path) -> PathBuf {
    run_dir.join("nrs.json")
}

/// Keeps it. Done before the pool hears of it, so that a restart never knows less than what was answered to the operator.
pub fn write_cache(run_dir: &Path, cached: &Cached) -> Result<(), journal::Error> {
    journal::write_versioned(&cache_path(run_dir), cached)
}

/// The one kept by an earlier agent; `None` where there is none.
pub fn read_cache(run_dir: &Path) -> Result<Option<Cached>, journal::Error> {
    let path = cache_path(run_dir);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    journal::read_versioned(&path).map(Some)
}

mod doubt;
#[cfg(test)]
mod fuzz;

pub use doubt::believed;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> NetResourceSetSpec {
        let nics = [0, 1].map(|n| {
            serde_json::json!({
                "id": format!("eni-{n}"), "mac": format!("02:00:00:00:00:0{n}"), "deviceIndex": n, "subnet": "s",
                "cidr4": "10.0.0.0/24", "gateway4": "10.0.0.1", "primary4": format!("10.0.0.1{n}"), "mtu": 1500,
                "addresses": [format!("10.0.0.2{n}")],
            })
        });
        serde_json::from_value(serde_json::json!({
            "instanceId": "i-1", "instanceType": "t", "zone": "z",
            "profile": {"name": "default", "ipFamilies": "DualStack", "pool": {}, "snat": true},
            "limits": {"maxNics": 2, "ipv4PerNic": 4, "ipv6PerNic": 4},
            "vpcCidrs": ["10.0.0.0/16"],
            "nics": nics,
        }))
        .unwrap()
    }

    #[test]
    fn good_specification_converts() {
        let plan = Plan::new(3, &spec(), 110).unwrap();
        assert_eq!(
            (plan.nics.len(), plan.pool.families, plan.generation),
            (2, Families::Dual, 3)
        );
    }

    #[test]
    fn errors_name_the_field() {
        type Change = fn(&mut NetResourceSetSpec);
        let cases: [(Change, &str); 10] = [
            (
                |s| s.profile.pool.warm_min = 99,
                "spec.profile.pool.warmMin",
            ),
            (|s| s.profile.mtu = Some(100), "spec.profile.mtu"),
            (|s| s.nics[1].mac = "x".to_owned(), "spec.nics[1].mac"),
            (|s| s.nics[1].id.clear(), "spec.nics[1].id"),
            (|s| s.nics[1].device_index = 999, "spec.nics[1].deviceIndex"),
            (|s| s.nics[1].device_index = 0, "spec.nics[1].deviceIndex"),
            (
                |s| s.nics[1].mac = s.nics[0].mac.clone(),
                "spec.nics[1].mac",
            ),
            (|s| s.nics[1].mtu = 9, "spec.nics[1].mtu"),
            (
                |s| s.nics[1].addresses = s.nics[0].addresses.clone(),
                "spec.nics[1].addresses",
            ),
            (
                |s| s.nics[0].addresses = vec![s.nics[0].primary4.into()],
                "spec.nics[0].addresses",
            ),
        ];
        for (change, field) in cases {
            let mut spec = spec();
            change(&mut spec);
            let error = Plan::new(1, &spec, 110).unwrap_err();
            assert!(
                error.to_string().starts_with(field),
                "{error} should name {field}"
            );
        }
    }
}
