//! Random inputs against what must always hold. A shadow keeps, from inputs and actions alone, who uses which address.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::*;
use super::key;
use crate::datapath::EndpointAddress;
use crate::types::{AttachmentKey, Families, Family, Millis, NicId, Reason};

const NICS: u16 = 3;
const PER_NIC: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// A snapshot: one bit an address of each NIC and family, one bit a NIC for usable.
    Supply(Vec<(u8, u8, bool)>),
    Mark(Vec<Index>),
    Reserve(u32),
    Cancel(u32),
    Abandon(u32),
    Release(u32),
    Removed(u32),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0_u32..12;
    prop_oneof![
        2 => proptest::collection::vec((any::<u8>(), any::<u8>(), proptest::bool::weighted(0.8)), NICS as usize)
            .prop_map(Step::Supply),
        1 => proptest::collection::vec(any::<Index>(), 0..5).prop_map(Step::Mark),
        6 => who.clone().prop_map(Step::Reserve),
        1 => who.clone().prop_map(Step::Cancel),
        1 => who.clone().prop_map(Step::Abandon),
        4 => who.clone().prop_map(Step::Release),
        4 => who.prop_map(Step::Removed),
        2 => (0_u64..50).prop_map(Step::Advance),
    ]
}

fn universe() -> Vec<(u16, IpAddr)> {
    let of_nic = |nic: u16| {
        (0..PER_NIC).flat_map(move |n| {
            let v4 = IpAddr::V4(Ipv4Addr::new(10, 0, u8::try_from(nic).unwrap(), n));
            let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, nic, u16::from(n)));
            [(nic, v4), (nic, v6)]
        })
    };
    (0..NICS).flat_map(of_nic).collect()
}

fn snapshot(bits: &[(u8, u8, bool)]) -> Vec<NicSupply> {
    let nic = |(index, (v4, v6, usable)): (usize, &(u8, u8, bool))| {
        let index = u16::try_from(index).unwrap();
        let present = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => v4 & (1 << ip.octets()[3]) != 0,
            IpAddr::V6(ip) => v6 & (1 << ip.segments()[7]) != 0,
        };
        let addresses = universe()
            .into_iter()
            .filter(|(nic, ip)| *nic == index && present(ip))
            .map(|(_, ip)| ip);
        NicSupply {
            nic: NicId(format!("eni-{index}")),
            usable: *usable,
            device_index: index,
            addresses: addresses.collect(),
        }
    };
    bits.iter().enumerate().map(nic).collect()
}

/// What an outsider knows.
#[derive(Default)]
struct Shadow {
    now: u64,
    supply: BTreeMap<IpAddr, (NicId, bool)>,
    marked: BTreeSet<IpAddr>,
    bound: BTreeMap<AttachmentKey, Vec<EndpointAddress>>,
    draining: BTreeMap<AttachmentKey, Vec<EndpointAddress>>,
    cooling: BTreeMap<IpAddr, u64>,
    waiting: VecDeque<AttachmentKey>,
}

impl Shadow {
    fn in_use(&self, ip: &IpAddr) -> bool {
        let holds =
            |addresses: &Vec<EndpointAddress>| addresses.iter().any(|address| address.ip == *ip);
        self.bound.values().any(holds)
            || self.draining.values().any(holds)
            || self.cooling.contains_key(ip)
    }

    fn free(&self) -> BTreeSet<IpAddr> {
        self.supply
            .keys()
            .filter(|ip| !self.in_use(ip) && !self.marked.contains(ip))
            .copied()
            .collect()
    }

    fn before(&mut self, input: &Input) {
        match input {
            Input::Supply(nics) => {
                let of = |nic: &NicSupply| {
                    let value = (nic.nic.clone(), nic.usable);
                    nic.addresses
                        .iter()
                        .map(move |ip| (*ip, value.clone()))
                        .collect::<Vec<_>>()
                };
                self.supply = nics.iter().flat_map(of).collect();
            }
            Input::Marked(set) => self.marked = set.clone(),
            Input::Reserve(key) => {
                let known = self.bound.contains_key(key) || self.draining.contains_key(key);
                if !known && !self.waiting.contains(key) {
                    self.waiting.push_back(key.clone());
                }
            }
            Input::Cancel(key) => self.waiting.retain(|k| k != key),
            Input::Abandon(key) => {
                self.waiting.retain(|k| k != key);
                self.bound.remove(key);
            }
            Input::Release(key) => {
                if let Some(addresses) = self.bound.remove(key) {
                    self.draining.insert(key.clone(), addresses);
                }
            }
            _ => {}
        }
    }

    fn after(&mut self, input: &Input, actions: &[Action], families: Families) {
        for action in actions {
            match action {
                Action::Assign(key, addresses) => self.assigned(key, addresses, families),
                Action::Wait(key) => {
                    assert!(self.waiting.contains(key), "{key} waits but was not asked")
                }
                Action::Refuse(key, reason) => {
                    assert_eq!(*reason, Reason::Superseded);
                    let draining = matches!(input, Input::Reserve(k) if k == key)
                        && self.draining.contains_key(key);
                    let overtaken = matches!(input, Input::Release(k) if k == key)
                        && self.waiting.contains(key);
                    assert!(draining || overtaken);
                    self.waiting.retain(|k| k != key);
                }
                Action::Cool(address, until) => {
                    let Input::Removed(key) = input else {
                        panic!("{address:?} cools after {input:?}")
                    };
                    let held = self
                        .draining
                        .get_mut(key)
                        .expect("it cools without having been drained");
                    let place = held
                        .iter()
                        .position(|a| a == address)
                        .expect("it cools without having been held");
                    held.remove(place);
                    self.cooling.insert(address.ip, until.0);
                }
                Action::Cooled(ip) => {
                    let until = self.cooling.remove(ip).expect("it did not cool");
                    assert!(until <= self.now, "{ip} ended its rest early");
                }
                Action::Consent(ip, true) => {
                    assert!(!self.in_use(ip), "consent for {ip}, which is in use")
                }
                Action::Consent(ip, false) => {
                    assert!(self.in_use(ip), "no consent for {ip}, which nobody uses")
                }
                Action::Lost(key, ip) => {
                    assert!(
                        self.bound[key].iter().any(|a| a.ip == *ip)
                            && !self.supply.contains_key(ip)
                    );
                }
            }
        }
        if let Input::Removed(key) = input {
            let left = self.draining.remove(key).unwrap_or_default();
            assert_eq!(left, [], "removed, and not cooling");
        }
    }

    fn assigned(&mut self, key: &AttachmentKey, addresses: &[EndpointAddress], families: Families) {
        let got: Vec<Family> = addresses.iter().map(|a| Family::of(a.ip)).collect();
        assert_eq!(got, families.iter().collect::<Vec<_>>());
        if let Some(held) = self.bound.get(key) {
            assert_eq!(held, addresses, "the same key got another answer");
            return;
        }
        assert_eq!(
            self.waiting.pop_front().as_ref(),
            Some(key),
            "served out of turn"
        );
        for address in addresses {
            assert!(
                self.free().contains(&address.ip),
                "{address:?} was not free"
            );
            assert_eq!(
                self.supply[&address.ip],
                (address.nic.clone(), true),
                "wrong or unusable NIC"
            );
        }
        self.bound.insert(key.clone(), addresses.to_vec());
    }

    fn compare(&self, pool: &Pool, config: &PoolConfig) {
        let seen = pool.addresses();
        // Nothing is lost and nothing invented.
        let held = self
            .bound
            .values()
            .chain(self.draining.values())
            .flatten()
            .map(|a| a.ip);
        let expected: BTreeSet<IpAddr> = self
            .supply
            .keys()
            .copied()
            .chain(held)
            .chain(self.cooling.keys().copied())
            .collect();
        assert_eq!(seen.keys().copied().collect::<BTreeSet<_>>(), expected);
        let free: BTreeSet<IpAddr> = seen
            .iter()
            .filter(|(_, (_, s))| matches!(s, AddressState::Free))
            .map(|(ip, _)| *ip)
            .collect();
        assert_eq!(free, self.free());
        assert_eq!(
            pool.releasable()
                .into_iter()
                .map(|a| a.ip)
                .collect::<BTreeSet<_>>(),
            free
        );
        for (key, addresses) in &self.bound {
            assert_eq!(pool.bound(key), Some(addresses.as_slice()));
        }
        for (ip, yes) in pool.consents() {
            assert_eq!(yes, !self.in_use(&ip));
        }
        // Who waits, waits for something that is not there.
        if !self.waiting.is_empty() {
            let usable = |family| {
                free.iter()
                    .any(|ip| Family::of(*ip) == family && self.supply[ip].1)
            };
            assert!(
                !config.families.iter().all(usable),
                "an ADD waits though all it needs is free"
            );
        }
        let next = pool.next_deadline().map_or(u64::MAX, |at| at.0);
        assert!(
            self.cooling
                .values()
                .all(|until| *until >= next.min(*until) && *until > self.now)
        );
        assert!(next > self.now || self.cooling.is_empty());
        self.compare_demand(pool, config);
    }

    fn compare_demand(&self, pool: &Pool, config: &PoolConfig) {
        let counts = pool.counts();
        for (family, demand) in pool.demand(Millis(self.now)) {
            let counts = counts[&family];
            if !config.families.contains(family) {
                assert_eq!(demand, Demand::default());
                continue;
            }
            let leaving = counts.draining + counts.cooling;
            let used = counts.bound + leaving;
            assert!(demand.low <= demand.high, "{demand:?}");
            assert!(
                demand.high <= (config.max_pods + leaving).max(used),
                "{demand:?} {counts:?}"
            );
            assert!(demand.high <= used + counts.waiting + config.warm_max.max(config.warm_min));
            let all_in_cloud = self
                .bound
                .values()
                .chain(self.draining.values())
                .flatten()
                .all(|a| self.supply.contains_key(&a.ip))
                && self.cooling.keys().all(|ip| self.supply.contains_key(ip));
            if all_in_cloud {
                let floor = (used + counts.waiting + config.warm_min)
                    .min((config.max_pods + leaving).max(used));
                assert!(demand.low >= floor, "{demand:?} {counts:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_after_every_input(
        families in prop_oneof![Just(Families::V4), Just(Families::V6), Just(Families::Dual)],
        (warm_min, warm_max, max_pods) in (0_u32..4, 0_u32..6, 1_u32..12),
        cooling in 0_u64..60,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let config =
            PoolConfig { families, warm_min, warm_max, cooling: Millis(cooling), churn_window: Millis(40), max_pods };
        let mut pool = Pool::new(config.clone());
        let mut shadow = Shadow::default();
        let (mut nics, mut marks) = (Vec::new(), BTreeSet::new());
        for step in steps {
            // An object brings both, in this order.
            if let Step::Supply(bits) = &step {
                nics = snapshot(bits);
            }
            if let Step::Mark(chosen) = &step {
                let all = universe();
                marks = chosen.iter().map(|index| index.get(&all).1).collect();
            }
            let input = match step {
                Step::Supply(_) | Step::Mark(_) => {
                    let [marked, supply] = Input::of_specification(marks.clone(), nics.clone());
                    shadow.before(&marked);
                    let actions = pool.handle(Millis(shadow.now), marked.clone());
                    shadow.after(&marked, &actions, families);
                    supply
                }
                Step::Reserve(n) => Input::Reserve(key(n)),
                Step::Cancel(n) => Input::Cancel(key(n)),
                Step::Abandon(n) => Input::Abandon(key(n)),
                Step::Release(n) => Input::Release(key(n)),
                Step::Removed(n) => Input::Removed(key(n)),
                Step::Advance(by) => {
                    shadow.now += by;
                    Input::Tick
                }
            };
            shadow.before(&input);
            let actions = pool.handle(Millis(shadow.now), input.clone());
            shadow.after(&input, &actions, families);
            shadow.compare(&pool, &config);
        }
    }

    /// A restart in the middle: a pool restored from what was bound and cooling continues where the first stood.
    #[test]
    fn restored_pool_holds_the_same(pods in 1_u32..6, cooling in 0_u32..3) {
        let config = super::config(Families::Dual);
        let all = snapshot(&[(0xf, 0xf, true), (0xf, 0xf, true), (0xf, 0xf, true)]);
        let mut first = Pool::new(config.clone());
        first.handle(Millis(0), Input::Supply(all.clone()));
        let mut second = Pool::new(config);
        for n in 0..pods + cooling {
            first.handle(Millis(0), Input::Reserve(key(n)));
        }
        for n in pods..pods + cooling {
            first.handle(Millis(1), Input::Release(key(n)));
            for action in first.handle(Millis(1), Input::Removed(key(n))) {
                if let Action::Cool(address, until) = action {
                    second.handle(Millis(2), Input::RestoreCooling(address, until));
                }
            }
        }
        for n in 0..pods {
            second.handle(Millis(2), Input::Restore(key(n), first.bound(&key(n)).unwrap().to_vec()));
        }
        second.handle(Millis(2), Input::Supply(all));
        prop_assert_eq!(first.addresses(), second.addresses());
        prop_assert_eq!(first.counts(), second.counts());
    }
}
