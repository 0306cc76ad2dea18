//! A node: pool, journal and kernel, as the agent keeps them. What is here outlives the agent, but for `pool`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tombolo_core::datapath::conventions::{POD_TABLE, ROUTE_METRIC};
use tombolo_core::datapath::diff::plan;
use tombolo_core::datapath::{
    Endpoint, EndpointAddress, Neighbour, NodeInput, NodeState, Route, RouteKind, desired,
};
use tombolo_core::eni::Consent;
use tombolo_core::ipam::{Action, AddressState, Demand, Input, NicSupply, Pool, PoolConfig};
use tombolo_core::types::{AttachmentKey, Families, Family, Mac, Millis, Nic, NicId};

use super::Rng;
use crate::datapath::kernel::Kernel;

pub const CONFIG: PoolConfig = PoolConfig {
    families: Families::Dual,
    warm_min: 1,
    warm_max: 3,
    cooling: Millis(3000),
    churn_window: Millis(5000),
    max_pods: 12,
};

/// What the operator wrote for a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    pub generation: u64,
    /// NIC -> addresses.
    pub nics: BTreeMap<NicId, BTreeSet<IpAddr>>,
    pub release: BTreeSet<IpAddr>,
}

/// What the agent reported last.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The spec that it is about; `None`: nothing was ever reported.
    pub generation: Option<u64>,
    pub demand: BTreeMap<Family, Demand>,
    pub in_use: BTreeSet<IpAddr>,
    pub releasable: Vec<IpAddr>,
    pub answers: BTreeMap<IpAddr, Consent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The kernel knows nothing of it yet.
    Adding,
    Ready,
    Draining,
}

/// A file of the journal.
#[derive(Clone, Debug)]
pub struct Record {
    pub addresses: Vec<EndpointAddress>,
    pub ifindex: u32,
    pub phase: Phase,
}

#[derive(Debug)]
pub struct Node {
    pub pool: Pool,
    pub journal: BTreeMap<AttachmentKey, Record>,
    /// Notes of addresses that rest.
    pub cooling: BTreeMap<IpAddr, (EndpointAddress, Millis)>,
    /// When each address was last taken from a pod, as an outsider saw it.
    removed: BTreeMap<IpAddr, Millis>,
    pub kernel: Kernel,
    /// The kernel may lack something of ours: it was taken since the last whole comparison, or that is under way.
    pub robbed: bool,
    /// The spec that the agent has.
    pub seen: Spec,
    pub status: Status,
    /// Keys that wait for an address.
    pub waiting: BTreeSet<AttachmentKey>,
    /// Most addresses of a family that were ever in use or waited for.
    pub peak: usize,
    links: u32,
    pub inputs: usize,
    pub plans: usize,
}

impl Node {
    pub fn new() -> Self {
        Self {
            pool: Pool::new(CONFIG),
            journal: BTreeMap::new(),
            cooling: BTreeMap::new(),
            removed: BTreeMap::new(),
            kernel: Kernel::new(NodeState::default(), false),
            robbed: true,
            seen: Spec::default(),
            status: Status::default(),
            waiting: BTreeSet::new(),
            peak: 0,
            links: 1000,
            inputs: 0,
            plans: 0,
        }
    }

    /// Hands an input to the pool and does what it asks for, as the agent's edge does.
    pub fn feed(&mut self, now: Millis, input: Input) {
        self.inputs += 1;
        if let Input::Reserve(key) = &input {
            self.waiting.insert(key.clone());
        }
        for action in self.pool.handle(now, input) {
            match action {
                Action::Assign(key, addresses) => self.assigned(now, key, addresses),
                Action::Cool(address, until) => {
                    self.cooling.insert(address.ip, (address, until));
                }
                Action::Cooled(ip) => {
                    let (_, until) = self.cooling.remove(&ip).expect("it did not rest");
                    assert!(until <= now, "{ip} ended its rest early");
                }
                Action::Refuse(key, _) => drop(self.waiting.remove(&key)),
                Action::Lost(key, ip) => panic!("{key}: the cloud took {ip} from a pod"),
                Action::Wait(_) | Action::Consent(..) => {}
            }
        }
        let used = self.in_use().iter().filter(|ip| ip.is_ipv4()).count();
        self.peak = self.peak.max(used + self.waiting.len());
    }

    fn assigned(&mut self, now: Millis, key: AttachmentKey, addresses: Vec<EndpointAddress>) {
        self.waiting.remove(&key);
        for EndpointAddress { ip, .. } in &addresses {
            let rested = self.removed.get(ip).map(|at| *at + CONFIG.cooling);
            assert!(rested.is_none_or(|until| until <= now), "{ip} rests");
            let held = self.journal.iter().find(|(other, record)| {
                **other != key && record.addresses.iter().any(|a| a.ip == *ip)
            });
            assert!(held.is_none(), "{ip} is {held:?}'s");
        }
        self.links += 1;
        let record = Record {
            addresses,
            ifindex: self.links,
            phase: Phase::Adding,
        };
        self.journal.entry(key).or_insert(record);
    }

    /// Addresses that are a pod's, are being taken from one, or rest.
    pub fn in_use(&self) -> BTreeSet<IpAddr> {
        let all = self.pool.addresses().into_iter();
        let used =
            |state: &AddressState| !matches!(state, AddressState::Free | AddressState::Yielded);
        all.filter(|(_, (_, state))| used(state))
            .map(|(ip, _)| ip)
            .collect()
    }

    /// The next spec reaches the agent. `links`: NICs that the kernel shows.
    pub fn hear(&mut self, now: Millis, spec: &Spec, links: &[Nic], rng: &mut Rng) {
        self.seen = spec.clone();
        self.pass(links, None, rng);
        self.supply(now, links);
    }

    /// Tells the pool what the spec says: of NICs that the kernel shows, after they were wired.
    pub fn supply(&mut self, now: Millis, links: &[Nic]) {
        let supply = |(nic, addresses): (&NicId, &BTreeSet<IpAddr>)| {
            let link = links.iter().find(|link| link.id == *nic);
            NicSupply {
                nic: nic.clone(),
                usable: link.is_some(),
                device_index: link.map_or(0, |link| link.device_index),
                addresses: addresses.iter().copied().collect(),
            }
        };
        let supply = self.seen.nics.iter().map(supply).collect();
        self.feed(now, Input::Marked(self.seen.release.clone()));
        self.feed(now, Input::Supply(supply));
    }

    fn desired(&self, links: &[Nic]) -> NodeState {
        let ready = |(key, record): (&AttachmentKey, &Record)| {
            (record.phase == Phase::Ready).then(|| Endpoint {
                key: key.clone(),
                host_ifindex: record.ifindex,
                addresses: record.addresses.clone(),
                host_ports: Vec::new(),
                mtu: 9001,
            })
        };
        let held = self.seen.nics.values().flatten();
        desired::node(&NodeInput {
            families: Families::Dual,
            nics: links
                .iter()
                .filter(|link| self.seen.nics.contains_key(&link.id))
                .cloned()
                .collect(),
            endpoints: self.journal.iter().filter_map(ready).collect(),
            addresses: held
                .filter(|ip| !self.seen.release.contains(*ip))
                .copied()
                .collect(),
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()],
            snat: true,
        })
    }

    /// Compares the whole node and repairs it; `most`: the agent ends after so many operations. After each of them no
    /// pod's packet leaves by a NIC that is not its own. Whether it came to the end.
    pub fn pass(&mut self, links: &[Nic], most: Option<usize>, rng: &mut Rng) -> bool {
        let desired = self.desired(links);
        let observed = self.kernel.observe(&desired);
        let ops = plan(&desired, &observed, self.kernel.nft);
        self.plans += 1;
        let end = most.map_or(ops.len(), |most| most.min(ops.len()));
        // On the way to what is wanted, which may be more than there was.
        self.robbed = true;
        let whole = end == ops.len();
        for op in ops.into_iter().take(end) {
            let told = format!("{op:?}");
            self.kernel.apply(op);
            if rng.one_in(4) {
                self.no_wrong_way(links, &told);
            }
        }
        if whole {
            self.robbed = false;
            let again = plan(&desired, &self.kernel.observe(&desired), true);
            assert!(again.is_empty(), "a second comparison finds {again:?}");
        }
        whole
    }

    /// An ADD goes on: its link is made and the whole node compared.
    pub fn wire(&mut self, key: &AttachmentKey, links: &[Nic], rng: &mut Rng) {
        let record = self.journal.get_mut(key).unwrap();
        record.phase = Phase::Ready;
        let (ifindex, ips) = (record.ifindex, record.addresses.clone());
        self.pass(links, None, rng);
        for address in ips {
            let traces = traces(&self.kernel, address.ip);
            let foreign = traces.iter().find(|(of, _)| *of != ifindex);
            assert_eq!(foreign, None, "{} of {key} leads elsewhere", address.ip);
        }
    }

    /// What an earlier life of an address may have left: a route and a neighbour on a link that is gone.
    pub fn garbage(&self, nth: usize) -> Option<(Route, Neighbour)> {
        let all: Vec<IpAddr> = self.seen.nics.values().flatten().copied().collect();
        let ip = *all.get(nth.checked_rem(all.len())?)?;
        let own = self
            .journal
            .values()
            .find(|r| r.addresses.iter().any(|a| a.ip == ip));
        let ifindex = 999;
        let route = Route {
            table: POD_TABLE,
            dst: ip.into(),
            kind: RouteKind::Link { ifindex },
            // Under the route of the pod that has it.
            metric: ROUTE_METRIC + u32::from(own.is_some()),
        };
        let mac = Mac([2; 6]);
        Some((route, Neighbour { ifindex, ip, mac }))
    }

    /// The link of a pod that was released goes, with what the kernel takes with it; then the rest, and the addresses rest.
    pub fn remove(&mut self, now: Millis, key: &AttachmentKey, links: &[Nic], rng: &mut Rng) {
        let record = self.journal.get(key).unwrap().clone();
        assert_eq!(record.phase, Phase::Draining);
        link_gone(&mut self.kernel, record.ifindex);
        self.pass(links, None, rng);
        for address in &record.addresses {
            assert_eq!(
                traces(&self.kernel, address.ip),
                [],
                "left of {}",
                address.ip
            );
            self.removed.insert(address.ip, now);
        }
        self.feed(now, Input::Removed(key.clone()));
        self.journal.remove(key);
    }

    pub fn release(&mut self, now: Millis, key: &AttachmentKey) {
        if let Some(record) = self.journal.get_mut(key) {
            record.phase = Phase::Draining;
        }
        self.waiting.remove(key);
        self.feed(now, Input::Release(key.clone()));
    }

    /// A new agent: the pool follows from journal, notes and the spec that was kept.
    pub fn restart(&mut self, now: Millis, links: &[Nic], rng: &mut Rng) {
        self.pool = Pool::new(CONFIG);
        self.waiting.clear();
        for (_, (address, until)) in self.cooling.clone() {
            self.feed(now, Input::RestoreCooling(address, until));
        }
        for (key, record) in self.journal.clone() {
            self.feed(now, Input::Restore(key.clone(), record.addresses));
            if record.phase != Phase::Ready {
                self.release(now, &key);
            }
        }
        self.pass(links, None, rng);
        self.supply(now, links);
    }

    pub fn report(&mut self, now: Millis) {
        for (ip, yes) in self.pool.consents() {
            assert!(
                !yes || !self.in_use().contains(&ip),
                "consent for {ip}, which is in use"
            );
        }
        let consent = |(ip, yes): (IpAddr, bool)| {
            let answer = if yes {
                Consent::Ready
            } else {
                Consent::Refused
            };
            (ip, answer)
        };
        self.status = Status {
            generation: Some(self.seen.generation),
            demand: self.pool.demand(now),
            in_use: self.in_use(),
            releasable: self.pool.releasable().into_iter().map(|a| a.ip).collect(),
            answers: self.pool.consents().into_iter().map(consent).collect(),
        };
    }

    /// A packet of a pod, or of what was one, leaves by the NIC of its address or not at all.
    pub fn no_wrong_way(&self, links: &[Nic], told: &str) {
        use crate::datapath::kernel::Verdict;
        for (key, record) in &self.journal {
            for address in &record.addresses {
                let elsewhere: IpAddr = if address.ip.is_ipv4() {
                    "10.0.200.1".parse().unwrap()
                } else {
                    "fd00:0:0:c8::1".parse().unwrap()
                };
                let way = self.kernel.pod_sends(record.ifindex, address.ip, elsewhere);
                let own = links.iter().find(|link| link.id == address.nic);
                let own = own.map(|link| Verdict::Out(link.ifindex));
                let allowed = way == Verdict::Dropped || Some(way) == own;
                assert!(
                    allowed,
                    "{told}: {key} sends {} {way:?}, its NIC is {own:?}",
                    address.ip
                );
                if record.phase == Phase::Ready && !self.robbed {
                    assert_eq!(Some(way), own, "{told}: {key} is cut off");
                }
            }
        }
    }
}

/// What the kernel takes away with a link.
pub fn link_gone(kernel: &mut Kernel, ifindex: u32) {
    let state = &mut kernel.state;
    state.links.remove(&ifindex);
    state.neighbours.retain(|each| each.ifindex != ifindex);
    state.addresses.retain(|each| each.ifindex != ifindex);
    state.routes.retain(|route| match route.kind {
        RouteKind::Link { ifindex: of } | RouteKind::Via { ifindex: of, .. } => of != ifindex,
        RouteKind::Unreachable => true,
    });
}

/// What the kernel holds of a pod with this address, by link.
fn traces(kernel: &Kernel, ip: IpAddr) -> Vec<(u32, String)> {
    let state = &kernel.state;
    let routes = state.routes.iter().filter(|route| route.dst.addr() == ip);
    let routes = routes.filter_map(|route| match route.kind {
        RouteKind::Link { ifindex } => Some((ifindex, format!("{route:?}"))),
        _ => None,
    });
    let neighbours = state.neighbours.iter().filter(|each| each.ip == ip);
    let neighbours = neighbours.map(|each| (each.ifindex, format!("{each:?}")));
    let four = state
        .nat
        .pods4
        .keys()
        .filter(|(_, of)| ip == IpAddr::V4(*of));
    let six = state
        .nat
        .pods6
        .keys()
        .filter(|(_, of)| ip == IpAddr::V6(*of));
    let sources = four.map(|(of, _)| *of).chain(six.map(|(of, _)| *of));
    let sources = sources.map(|of| (of, "a source element".to_owned()));
    routes.chain(neighbours).chain(sources).collect()
}
