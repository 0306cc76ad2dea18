//! A model of the kernel, as far as our state steers it: takes operations, and says where a packet goes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use tombolo_core::datapath::conventions::MAIN_TABLE;
use tombolo_core::datapath::diff::Op;
use tombolo_core::datapath::{NodeState, RouteKind, Rule, RuleAction, Selector};
use tombolo_core::types::Family;

use super::input::PRIMARY;

/// Settings that let the node forward, by family.
pub const FORWARDING: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

/// Where a packet ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sent by the link with this index.
    Out(u32),
    Dropped,
}

#[derive(Clone, Debug)]
pub struct Packet {
    /// Name of the link that it came by; `lo` for the node's own.
    pub iif: String,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub mark: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub state: NodeState,
    /// Whether our nft tables stand.
    pub nft: bool,
    /// Settings that nobody asked for keep their value here.
    pub settings: BTreeMap<String, String>,
}

impl Kernel {
    pub fn new(state: NodeState, nft: bool) -> Self {
        let settings = state
            .sysctls
            .iter()
            .map(|each| (each.path.clone(), each.value.clone()))
            .collect();
        Self {
            state,
            nft,
            settings,
        }
    }

    /// With forwarding on, whoever turned it on: what is desired asks for it only once the primary NIC is known.
    pub fn forwarding(mut self) -> Self {
        for path in FORWARDING {
            self.settings.insert(path.to_owned(), "1".to_owned());
        }
        self
    }

    /// What a dump shows that asks for the settings of `desired`.
    pub fn observe(&self, desired: &NodeState) -> NodeState {
        let mut seen = self.state.clone();
        seen.sysctls = desired.sysctls.clone();
        seen.sysctls
            .retain(|each| self.settings.get(&each.path) == Some(&each.value));
        if !self.nft {
            seen.nat = Default::default();
        }
        seen
    }

    /// As the kernel does it: what is there is refused, what replaces replaces one, removals must find their object.
    pub fn apply(&mut self, op: Op) {
        let state = &mut self.state;
        match op {
            Op::SetSysctl(each) => {
                self.settings.insert(each.path, each.value);
            }
            Op::SetLink(index, link) => {
                state.links.insert(index, link);
            }
            Op::AddAddress(new) => {
                let twice = state
                    .addresses
                    .iter()
                    .any(|old| old.ifindex == new.ifindex && old.ip.addr() == new.ip.addr());
                assert!(!twice, "{new:?} exists");
                state.addresses.insert(new);
            }
            Op::DelAddress(old) => assert!(state.addresses.remove(&old), "{old:?} does not exist"),
            Op::AddNeighbour(new) => {
                state
                    .neighbours
                    .retain(|old| (old.ifindex, old.ip) != (new.ifindex, new.ip));
                state.neighbours.insert(new);
            }
            Op::DelNeighbour(old) => {
                let before = state.neighbours.len();
                state
                    .neighbours
                    .retain(|each| (each.ifindex, each.ip) != (old.ifindex, old.ip));
                assert!(state.neighbours.len() < before, "{old:?} does not exist");
            }
            Op::AddRoute(new) => {
                let key = (new.table, new.dst, new.metric);
                let replaced = state
                    .routes
                    .iter()
                    .rev()
                    .find(|old| (old.table, old.dst, old.metric) == key)
                    .cloned();
                if let Some(old) = replaced {
                    state.routes.remove(&old);
                }
                assert!(state.routes.insert(new));
            }
            Op::DelRoute(old) => assert!(state.routes.remove(&old), "{old:?} does not exist"),
            Op::AddRule(new) => assert!(state.rules.insert(new.clone()), "{new:?} exists"),
            Op::DelRule(old) => assert!(state.rules.remove(&old), "{old:?} does not exist"),
            Op::ReplaceNat(new) => (state.nat, self.nft) = (new, true),
            Op::UpdateNat(step) => {
                assert_eq!(state.nat, step.0, "the update starts from another state");
                state.nat = step.1;
            }
        }
    }

    /// What becomes of a packet to elsewhere that a pod sends by the link with this index: guard, then rules.
    pub fn pod_sends(&self, ifindex: u32, source: IpAddr, destination: IpAddr) -> Verdict {
        let forwards = match source {
            IpAddr::V4(_) => FORWARDING[0],
            IpAddr::V6(_) => FORWARDING[1],
        };
        if self.settings.get(forwards).map(String::as_str) != Some("1") {
            return Verdict::Dropped;
        }
        let mark = match (self.nft, source) {
            (false, _) => Some(0),
            (true, IpAddr::V4(ip)) => self.state.nat.pods4.get(&(ifindex, ip)).copied(),
            (true, IpAddr::V6(ip)) => self.state.nat.pods6.get(&(ifindex, ip)).copied(),
        };
        let iif = self
            .state
            .links
            .get(&ifindex)
            .map_or("gone", |link| &link.name)
            .to_owned();
        mark.map_or(Verdict::Dropped, |mark| {
            self.route(&Packet {
                iif,
                source,
                destination,
                mark,
            })
        })
    }

    /// Policy rules in their order, then main. The OS gave main a default route by the primary NIC, in both families.
    pub fn route(&self, packet: &Packet) -> Verdict {
        let family = Family::of(packet.source);
        let rules: Vec<&Rule> = self
            .state
            .rules
            .iter()
            .filter(|rule| rule.family == family)
            .collect();
        let mut skip_to = 0;
        for rule in &rules {
            if rule.priority < skip_to || !matches(&rule.selector, packet) {
                continue;
            }
            match rule.action {
                RuleAction::Nop => {}
                RuleAction::Blackhole => return Verdict::Dropped,
                // A jump to nowhere is skipped.
                RuleAction::Goto(target) if rules.iter().any(|rule| rule.priority == target) => {
                    skip_to = target
                }
                RuleAction::Goto(_) => {}
                RuleAction::Lookup(table) => {
                    if let Some(verdict) = self.lookup(table, packet.destination) {
                        return verdict;
                    }
                }
            }
        }
        self.lookup(MAIN_TABLE, packet.destination)
            .unwrap_or(Verdict::Dropped)
    }

    /// The longest prefix, and of its routes the one with the least metric. None: the next rule is asked.
    fn lookup(&self, table: u32, destination: IpAddr) -> Option<Verdict> {
        if table == MAIN_TABLE {
            return Some(Verdict::Out(PRIMARY));
        }
        let routes = self
            .state
            .routes
            .iter()
            .filter(|route| route.table == table && route.dst.contains(&destination));
        let best = routes.max_by_key(|route| (route.dst.prefix_len(), Reverse(route.metric)))?;
        Some(match best.kind {
            RouteKind::Link { ifindex } | RouteKind::Via { ifindex, .. } => Verdict::Out(ifindex),
            RouteKind::Unreachable => Verdict::Dropped,
        })
    }
}

fn matches(selector: &Selector, packet: &Packet) -> bool {
    match selector {
        Selector::All => true,
        Selector::Iif(name) => *name == packet.iif,
        // Nothing that a node has asks for it.
        Selector::Oif(_) => false,
        Selector::From(range) => range.contains(&packet.source),
        Selector::Mark(mark, mask) => packet.mark & mask == *mark,
        Selector::IifMark(name, mark, mask) => *name == packet.iif && packet.mark & mask == *mark,
    }
}
