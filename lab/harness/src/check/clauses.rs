//! The clauses of the invariant. Pure: each function compares two views of one snapshot and says where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::snapshot::{NodeView, Snapshot};

/// One disagreement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Which clause.
    pub clause: Clause,
    /// Whose.
    pub subject: String,
    /// How the two sides differ.
    pub detail: String,
}

/// The clauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(
    missing_docs,
    reason = "the names say it, docs/ARCHITECTURE.md lists them"
)]
pub enum Clause {
    CloudIsEni,
    CloudIsNrs,
    NrsIsPool,
    NrsIsKernelUnreachable,
    PoolIsJournal,
    JournalIsKernelRoute,
    JournalIsKernelNeighbour,
    JournalIsKernelSource,
    JournalIsHostEnd,
    JournalIsHostPort,
    JournalIsPodAddress,
    JournalIsEndpoint,
    PodIsEndpoint,
    AddressIsUnique,
    NicHasItsRules,
    NoSpoofDrops,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.clause, self.subject, self.detail)
    }
}

/// All clauses.
#[must_use]
pub fn judge(s: &Snapshot) -> Vec<Violation> {
    let mut found = Vec::new();
    cloud_is_eni(s, &mut found);
    for (name, node) in &s.nodes {
        cloud_is_nrs(s, name, node, &mut found);
        pool(name, node, &mut found);
        kernel(s, name, node, &mut found);
        endpoints(s, name, node, &mut found);
        nic_rules(s, name, node, &mut found);
    }
    pods(s, &mut found);
    unique(s, &mut found);
    for (nic, drops) in &s.spoof_drops {
        if *drops > 0 {
            found.push(violation(
                Clause::NoSpoofDrops,
                nic,
                format!("{drops} frames dropped as spoofed"),
            ));
        }
    }
    found.sort();
    found
}

fn violation(clause: Clause, subject: &str, detail: String) -> Violation {
    Violation {
        clause,
        subject: subject.to_owned(),
        detail,
    }
}

/// Reports keys and values on which two maps differ.
fn compare<K: Ord + fmt::Debug, V: PartialEq + fmt::Debug>(
    clause: Clause,
    subject: &str,
    (left_name, left): (&str, &BTreeMap<K, V>),
    (right_name, right): (&str, &BTreeMap<K, V>),
    found: &mut Vec<Violation>,
) {
    for (key, value) in left {
        match right.get(key) {
            None => found.push(violation(
                clause,
                subject,
                format!("{key:?} is in {left_name}, not in {right_name}"),
            )),
            Some(other) if other != value => {
                found.push(violation(
                    clause,
                    subject,
                    format!("{key:?}: {left_name} has {value:?}, {right_name} has {other:?}"),
                ));
            }
            Some(_) => {}
        }
    }
    for key in right.keys().filter(|k| !left.contains_key(k)) {
        found.push(violation(
            clause,
            subject,
            format!("{key:?} is in {right_name}, not in {left_name}"),
        ));
    }
}

fn cloud_is_eni(s: &Snapshot, found: &mut Vec<Violation>) {
    let cloud = s
        .cloud
        .iter()
        .map(|(id, nic)| (id.clone(), nic.secondary.clone()))
        .collect();
    let enis = s
        .enis
        .iter()
        .map(|(id, eni)| (id.clone(), eni.addresses.clone()))
        .collect();
    compare(
        Clause::CloudIsEni,
        "cluster",
        ("cloud", &cloud),
        ("Eni objects", &enis),
        found,
    );
}

fn cloud_is_nrs(s: &Snapshot, name: &str, node: &NodeView, found: &mut Vec<Violation>) {
    let cloud: BTreeMap<String, BTreeSet<IpAddr>> = s
        .cloud
        .iter()
        .filter(|(_, nic)| nic.instance.as_deref() == Some(node.instance.as_str()))
        .map(|(id, nic)| (id.clone(), nic.secondary.clone()))
        .collect();
    compare(
        Clause::CloudIsNrs,
        name,
        ("cloud", &cloud),
        ("NetResourceSet", &node.nrs),
        found,
    );
}

fn pool(name: &str, node: &NodeView, found: &mut Vec<Violation>) {
    let nrs: BTreeMap<IpAddr, String> = node
        .nrs
        .iter()
        .flat_map(|(nic, ips)| ips.iter().map(move |ip| (*ip, nic.clone())))
        .collect();
    let pool: BTreeMap<IpAddr, String> = node
        .pool
        .iter()
        .map(|(ip, (nic, ..))| (*ip, nic.clone()))
        .collect();
    compare(
        Clause::NrsIsPool,
        name,
        ("NetResourceSet", &nrs),
        ("pool", &pool),
        found,
    );

    let held: BTreeMap<IpAddr, ()> = nrs
        .keys()
        .filter(|ip| !node.release.contains(ip))
        .map(|ip| (*ip, ()))
        .collect();
    let unreachable = node.kernel.unreachable.iter().map(|ip| (*ip, ())).collect();
    compare(
        Clause::NrsIsKernelUnreachable,
        name,
        ("NetResourceSet", &held),
        ("unreachable routes", &unreachable),
        found,
    );

    let bound: BTreeMap<IpAddr, (String, String)> = node
        .pool
        .iter()
        .filter(|(_, (_, state, _))| state == "bound")
        .map(|(ip, (nic, _, key))| (*ip, (nic.clone(), key.clone())))
        .collect();
    let journal: BTreeMap<IpAddr, (String, String)> = node
        .journal
        .iter()
        .flat_map(|(key, ips)| {
            ips.iter()
                .map(move |(ip, nic)| (*ip, (nic.clone(), key.clone())))
        })
        .collect();
    compare(
        Clause::PoolIsJournal,
        name,
        ("pool", &bound),
        ("journal", &journal),
        found,
    );
}

fn journal_addresses(node: &NodeView) -> BTreeMap<IpAddr, &str> {
    node.journal
        .values()
        .flatten()
        .map(|(ip, nic)| (*ip, nic.as_str()))
        .collect()
}

fn kernel(s: &Snapshot, name: &str, node: &NodeView, found: &mut Vec<Violation>) {
    let wanted: BTreeMap<IpAddr, ()> = journal_addresses(node)
        .into_keys()
        .map(|ip| (ip, ()))
        .collect();
    let keys =
        |m: &BTreeMap<IpAddr, String>| m.keys().map(|ip| (*ip, ())).collect::<BTreeMap<_, ()>>();
    let k = &node.kernel;
    compare(
        Clause::JournalIsKernelRoute,
        name,
        ("journal", &wanted),
        ("pod routes", &keys(&k.routes)),
        found,
    );
    compare(
        Clause::JournalIsKernelNeighbour,
        name,
        ("journal", &wanted),
        ("neighbours", &keys(&k.neighbours)),
        found,
    );
    compare(
        Clause::JournalIsPodAddress,
        name,
        ("journal", &wanted),
        ("pod namespaces", &keys(&k.pod_addresses)),
        found,
    );

    let marks: BTreeMap<IpAddr, u32> = journal_addresses(node)
        .into_iter()
        .filter_map(|(ip, nic)| {
            Some((
                ip,
                0x0b00_0000 | ((u32::from(s.cloud.get(nic)?.device_index) + 1) << 16),
            ))
        })
        .collect();
    let sources: BTreeMap<IpAddr, u32> = k
        .sources
        .iter()
        .map(|(ip, (_, mark))| (*ip, *mark))
        .collect();
    compare(
        Clause::JournalIsKernelSource,
        name,
        ("journal", &marks),
        ("source maps", &sources),
        found,
    );

    compare(
        Clause::JournalIsHostPort,
        name,
        ("journal", &node.host_ports),
        ("maps of host ports", &k.host_ports),
        found,
    );
    let hairpin = |to: &String| {
        let ip = to.split(' ').next().unwrap_or_default();
        format!("{ip} {ip}")
    };
    let wanted: BTreeSet<String> = node.host_ports.values().map(hairpin).collect();
    if wanted != k.hairpins {
        let detail = format!(
            "pods with host ports {wanted:?}, in the sets {:?}",
            k.hairpins
        );
        found.push(violation(Clause::JournalIsHostPort, name, detail));
    }

    // Route, neighbour and source of one address must name the same host end.
    for (ip, end) in &k.routes {
        let neighbour = k.neighbours.get(ip);
        let source = k.sources.get(ip).map(|(end, _)| end);
        if neighbour.is_some_and(|n| n != end) || source.is_some_and(|n| n != end) {
            let detail =
                format!("{ip}: route by {end}, neighbour on {neighbour:?}, source on {source:?}");
            found.push(violation(Clause::JournalIsHostEnd, name, detail));
        }
    }
    if k.host_ends.len() != node.journal.len() {
        let detail = format!(
            "{} host ends for {} journal entries: {:?}",
            k.host_ends.len(),
            node.journal.len(),
            k.host_ends
        );
        found.push(violation(Clause::JournalIsHostEnd, name, detail));
    }
}

fn endpoints(s: &Snapshot, name: &str, node: &NodeView, found: &mut Vec<Violation>) {
    let objects = s
        .endpoints
        .values()
        .filter(|e| e.node == name)
        .map(|e| (e.key.clone(), e.ips.clone()))
        .collect::<BTreeMap<_, _>>();
    compare(
        Clause::JournalIsEndpoint,
        name,
        ("journal", &node.journal),
        ("PodEndpoints", &objects),
        found,
    );
}

fn pods(s: &Snapshot, found: &mut Vec<Violation>) {
    let running: BTreeMap<String, BTreeSet<IpAddr>> = s
        .pods
        .iter()
        .filter(|(_, p)| p.phase == "Running" && !p.host_network)
        .map(|(name, p)| (name.clone(), p.ips.clone()))
        .collect();
    let objects: BTreeMap<String, BTreeSet<IpAddr>> = s
        .endpoints
        .values()
        .map(|e| (e.pod.clone(), e.ips.keys().copied().collect()))
        .collect();
    compare(
        Clause::PodIsEndpoint,
        "cluster",
        ("running pods", &running),
        ("PodEndpoints", &objects),
        found,
    );
}

fn unique(s: &Snapshot, found: &mut Vec<Violation>) {
    let mut owners: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (name, node) in &s.nodes {
        for (key, ips) in &node.journal {
            for ip in ips.keys() {
                owners.entry(*ip).or_default().push(format!("{name}:{key}"));
            }
        }
    }
    let mut nics: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (id, nic) in &s.cloud {
        for ip in &nic.secondary {
            nics.entry(*ip).or_default().push(id.clone());
        }
    }
    for (what, map) in [("pods", owners), ("NICs", nics)] {
        for (ip, holders) in map.into_iter().filter(|(_, h)| h.len() > 1) {
            found.push(violation(
                Clause::AddressIsUnique,
                &ip.to_string(),
                format!("held by several {what}: {holders:?}"),
            ));
        }
    }
}

fn nic_rules(s: &Snapshot, name: &str, node: &NodeView, found: &mut Vec<Violation>) {
    let secondary: BTreeSet<u32> = s
        .cloud
        .iter()
        .filter(|(id, nic)| node.nrs.contains_key(*id) && nic.device_index > 0)
        .map(|(_, nic)| u32::from(nic.device_index))
        .collect();
    for (family, rules) in &node.kernel.rules {
        let count = |priority: u32| rules.iter().filter(|(p, _)| *p == priority).count();
        for (priority, wanted) in [
            (512, 1),
            (1024, 1),
            (1536, secondary.len()),
            (1600, 1),
            (1700, 1),
            (2000, 1),
        ] {
            if count(priority) != wanted {
                let detail = format!(
                    "{family}: {} rules of priority {priority}, {wanted} wanted: {rules:?}",
                    count(priority)
                );
                found.push(violation(Clause::NicHasItsRules, name, detail));
            }
        }
        let tables: BTreeSet<u32> = node
            .kernel
            .nic_tables
            .iter()
            .filter(|(_, f)| f == family)
            .map(|(t, _)| *t)
            .collect();
        let wanted: BTreeSet<u32> = secondary.iter().map(|i| 1000 + i).collect();
        if tables != wanted {
            found.push(violation(
                Clause::NicHasItsRules,
                name,
                format!("{family}: NIC tables {tables:?}, {wanted:?} wanted"),
            ));
        }
    }
}
