//! Two nodes, their planners, one cloud: steps, what holds after each, and rests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tombolo_core::eni::{
    Action, BackoffConfig, Call, Failure, Input, NicState, Observation, Planner, PlannerConfig,
};
use tombolo_core::ipam::{self, AddressState};
use tombolo_core::types::{AttachmentKey, Families, Millis, Nic, NicId, Reason};

use super::Rng;
use super::cloud::{Cloud, LIMITS};
use super::node::{CONFIG, Node, Phase, Spec, link_gone};

const NODES: usize = 2;
const PLANNER: PlannerConfig = PlannerConfig {
    backoff: BackoffConfig {
        base: Millis(200),
        max: Millis(2000),
    },
    subnet_hold: Millis(5000),
    limit_hold: Millis(5000),
    refused_hold: Millis(2000),
    taking_hold: Millis(5000),
    nic_idle: Millis(3000),
    attach_timeout: Millis(60_000),
};

/// A call: issued, then carried out, then ended.
#[derive(Debug)]
struct Pending {
    call: Call,
    action: Action,
    /// With the addresses that it brought.
    outcome: Option<Result<BTreeSet<IpAddr>, Reason>>,
}

/// The operator's part of a node.
struct Side {
    planner: Planner,
    spec: Spec,
    pending: Vec<Pending>,
    /// NICs about to be detached: no part of the spec any more.
    leaving: BTreeSet<String>,
    reported: BTreeSet<Reason>,
}

pub struct World {
    rng: Rng,
    now: Millis,
    cloud: Cloud,
    nodes: Vec<Node>,
    sides: Vec<Side>,
    /// Calls that fail next.
    faults: Vec<Option<Reason>>,
    made: u32,
    /// What planners asked for.
    log: Vec<String>,
    /// Of pools, of planners, and plans for kernels.
    pub inputs: [usize; 3],
    pub pods: u32,
    pub calls: u32,
}

impl World {
    pub fn new(rng: Rng) -> Self {
        let side = |node: usize| Side {
            planner: Planner::new(&format!("n{node}"), PLANNER),
            spec: Spec::default(),
            pending: Vec::new(),
            leaving: BTreeSet::new(),
            reported: BTreeSet::new(),
        };
        Self {
            rng,
            now: Millis(1_000_000),
            cloud: Cloud::new(NODES),
            nodes: (0..NODES).map(|_| Node::new()).collect(),
            sides: (0..NODES).map(side).collect(),
            faults: Vec::new(),
            made: 0,
            log: Vec::new(),
            inputs: [0; 3],
            pods: 0,
            calls: 0,
        }
    }

    /// NICs that a node's kernel shows.
    fn links(&self, node: usize) -> Vec<Nic> {
        let shown = |state| matches!(state, NicState::InUse | NicState::Detaching);
        let nics = self.cloud.of(node).filter(|nic| shown(nic.seen.state));
        nics.map(super::cloud::CloudNic::link).collect()
    }

    /// One step; what it was.
    pub fn step(&mut self) -> String {
        let node = self.rng.below(NODES);
        let kind = self.rng.below(100);
        match kind {
            0..14 => self.add(node),
            14..26 => self.change(node, Phase::Adding),
            26..36 => self.change(node, Phase::Ready),
            36..46 => self.change(node, Phase::Draining),
            46..58 => self.look(node),
            58..72 => drop(self.progress(node)),
            72..80 => self.hear(node),
            80..87 => self.nodes[node].report(self.now),
            87..92 => self.now = self.now + Millis(self.rng.below(1500) as u64),
            92..94 => self.rob(node),
            94 => self.partial_pass(node),
            95 => self.whole_pass(node),
            96 => self.restart_agent(node),
            97 => self.restart_operator(node),
            98 => self.abandon(node),
            _ => self.faults = self.some_faults(),
        }
        format!("node {node}, kind {kind}")
    }

    fn add(&mut self, node: usize) {
        for _ in 0..=self.rng.below(5) {
            let of = &mut self.nodes[node];
            if of.journal.len() + of.waiting.len() >= CONFIG.max_pods as usize {
                return;
            }
            self.made += 1;
            self.pods += 1;
            let key = AttachmentKey::new("tombolo", &format!("c{}", self.made), "eth0").unwrap();
            of.feed(self.now, ipam::Input::Reserve(key));
        }
    }

    /// Some pods in some phase go on to the next one.
    fn change(&mut self, node: usize, phase: Phase) {
        let links = self.links(node);
        let of = &mut self.nodes[node];
        for _ in 0..=self.rng.below(5) {
            let here = of.journal.iter().filter(|(_, r)| r.phase == phase);
            let keys: Vec<AttachmentKey> = here.map(|(key, _)| key.clone()).collect();
            let Some(key) = keys.get(self.rng.below(keys.len())) else {
                return;
            };
            match phase {
                Phase::Adding => of.wire(key, &links, &mut self.rng),
                Phase::Ready => of.release(self.now, key),
                Phase::Draining => of.remove(self.now, key, &links, &mut self.rng),
            }
        }
    }

    /// An ADD that waits, or that has not touched the kernel, gives up.
    fn abandon(&mut self, node: usize) {
        let of = &mut self.nodes[node];
        let adding = |(key, record): (&AttachmentKey, &super::node::Record)| {
            (record.phase == Phase::Adding).then(|| key.clone())
        };
        let mut keys: Vec<AttachmentKey> = of.waiting.iter().cloned().collect();
        keys.extend(of.journal.iter().filter_map(adding));
        let Some(key) = keys.get(self.rng.below(keys.len())) else {
            return;
        };
        of.waiting.remove(key);
        of.journal.remove(key);
        of.feed(self.now, ipam::Input::Abandon(key.clone()));
    }

    /// The operator reads cloud and status, and plans.
    fn look(&mut self, node: usize) {
        self.cloud.pass(self.now);
        self.write_spec(node);
        let (side, status) = (&mut self.sides[node], &self.nodes[node].status);
        let heard = status.generation == Some(side.spec.generation);
        let of_marks = |(ip, _): &(&IpAddr, _)| heard && side.spec.release.contains(*ip);
        let answers = status.answers.iter().filter(of_marks);
        let observation = Observation {
            limits: LIMITS,
            families: Families::Dual,
            nics: self.cloud.of(node).map(|nic| nic.seen.clone()).collect(),
            demand: status.generation.map(|_| status.demand.clone()),
            heard,
            in_use: status.in_use.clone(),
            releasable: status.releasable.clone(),
            marked: side.spec.release.clone(),
            answers: answers.map(|(ip, consent)| (*ip, *consent)).collect(),
            // One operator, whose readings are true: what it takes, it knows.
            taking: BTreeSet::new(),
            signed: true,
            subnets: self.cloud.subnets(),
        };
        self.inputs[1] += 1;
        let actions = side.planner.handle(self.now, Input::Observed(observation));
        for action in actions {
            self.log
                .push(format!("{} node {node}: {action:?}", self.now.0));
            self.act(node, action);
        }
        self.write_spec(node);
    }

    fn act(&mut self, node: usize, action: Action) {
        let side = &mut self.sides[node];
        if let Some(call) = action.call() {
            if let Action::DetachNic { eni, .. } = &action {
                side.leaving.insert(eni.clone());
            }
            if let Action::CreateNic {
                eni, device_index, ..
            } = &action
            {
                self.cloud.intend(node, eni, *device_index);
            }
            side.pending.push(Pending {
                call,
                action,
                outcome: None,
            });
            return;
        }
        let before = side.spec.release.clone();
        match action {
            Action::MarkRelease(more) => side.spec.release.extend(more),
            Action::Unmark(less) => side.spec.release.retain(|ip| !less.contains(ip)),
            Action::Report(problem) => drop(side.reported.insert(problem.reason)),
            Action::ClearReport(reason) => drop(side.reported.remove(&reason)),
            _ => panic!("{action:?}"),
        }
        if side.spec.release != before {
            side.spec.generation += 1;
        }
    }

    /// The spec follows the cloud; addresses on no NIC are not asked for.
    fn write_spec(&mut self, node: usize) {
        let side = &mut self.sides[node];
        let serves = |nic: &&super::cloud::CloudNic| {
            nic.seen.state == NicState::InUse && !side.leaving.contains(&nic.seen.eni)
        };
        let nics: BTreeMap<NicId, BTreeSet<IpAddr>> = self
            .cloud
            .of(node)
            .filter(serves)
            .map(|nic| (nic.seen.nic.clone().unwrap(), nic.seen.addresses.clone()))
            .collect();
        let mut release = side.spec.release.clone();
        release.retain(|ip| nics.values().any(|all| all.contains(ip)));
        if nics != side.spec.nics || release != side.spec.release {
            let generation = side.spec.generation + 1;
            side.spec = Spec {
                generation,
                nics,
                release,
            };
        }
    }

    /// A call under way goes on by one stage. False: there is none.
    fn progress(&mut self, node: usize) -> bool {
        let count = self.sides[node].pending.len();
        if count == 0 {
            return false;
        }
        let index = self.rng.below(count);
        if self.sides[node].pending[index].outcome.is_none() {
            let action = self.sides[node].pending[index].action.clone();
            let outcome = self.carry_out(node, &action);
            self.sides[node].pending[index].outcome = Some(outcome);
            return true;
        }
        let ended = self.sides[node].pending.remove(index);
        if let Action::DetachNic { eni, .. } = &ended.action {
            self.sides[node].leaving.remove(eni);
        }
        let planner = &mut self.sides[node].planner;
        let outcome = ended.outcome.unwrap().map(|given| {
            let actions = planner.handle(self.now, Input::Given(given));
            assert!(actions.is_empty(), "planned before it looked: {actions:?}");
        });
        let outcome = outcome.map_err(|reason| Failure {
            reason,
            message: format!("injected {reason}"),
            spread: 500,
        });
        self.inputs[1] += 1;
        let done = Input::Finished(ended.call, outcome);
        let actions = self.sides[node].planner.handle(self.now, done);
        assert!(actions.is_empty(), "planned before it looked: {actions:?}");
        true
    }

    fn carry_out(&mut self, node: usize, action: &Action) -> Result<BTreeSet<IpAddr>, Reason> {
        self.calls += 1;
        let fault = self.faults.pop();
        if let Some(Some(reason)) = fault {
            return Err(reason);
        }
        let link = match action {
            Action::DetachNic { eni, .. } => self.cloud.nics.get(eni).map(|nic| nic.ifindex),
            _ => None,
        };
        let had = self.held(node);
        let outcome = self.cloud.call(self.now, node, action);
        if let (Some(ifindex), Ok(())) = (link, &outcome) {
            link_gone(&mut self.nodes[node].kernel, ifindex);
            self.nodes[node].robbed = true;
        }
        // Carried out, and the reply is lost.
        if fault == Some(None) {
            return Err(Reason::CloudError);
        }
        outcome.map(|()| self.held(node).difference(&had).copied().collect())
    }

    /// What the cloud has given to a node's NICs.
    fn held(&self, node: usize) -> BTreeSet<IpAddr> {
        let nics = self.cloud.of(node);
        nics.flat_map(|nic| nic.seen.addresses.clone()).collect()
    }

    fn some_faults(&mut self) -> Vec<Option<Reason>> {
        const FAULTS: [Option<Reason>; 5] = [
            None,
            Some(Reason::CloudThrottled),
            Some(Reason::CloudError),
            Some(Reason::SubnetFull),
            Some(Reason::NicLimit),
        ];
        let count = self.rng.below(4) + 1;
        (0..count).map(|_| FAULTS[self.rng.below(5)]).collect()
    }

    fn hear(&mut self, node: usize) {
        let (spec, links) = (self.sides[node].spec.clone(), self.links(node));
        self.nodes[node].hear(self.now, &spec, &links, &mut self.rng);
    }

    /// Something of ours is taken from the kernel, or garbage with our mark put there: one thing between two repairs.
    fn rob(&mut self, node: usize) {
        let of = &mut self.nodes[node];
        if of.robbed {
            return;
        }
        of.robbed = true;
        let nth = self.rng.below(1000);
        let litter = self.rng.below(6);
        let garbage = of.garbage(nth);
        let state = &mut of.kernel.state;
        match litter {
            0 => drop(take_nth(&mut state.rules, nth)),
            1 => drop(take_nth(&mut state.routes, nth)),
            2 => drop(take_nth(&mut state.neighbours, nth)),
            3 => of.kernel.nft = false,
            _ => drop(garbage.map(|(route, neighbour)| {
                state.routes.insert(route);
                state.neighbours.insert(neighbour);
            })),
        }
    }

    fn partial_pass(&mut self, node: usize) {
        let links = self.links(node);
        let most = self.rng.below(6);
        self.nodes[node].pass(&links, Some(most), &mut self.rng);
        self.nodes[node].restart(self.now, &links, &mut self.rng);
    }

    fn whole_pass(&mut self, node: usize) {
        let links = self.links(node);
        self.nodes[node].pass(&links, None, &mut self.rng);
    }

    fn restart_agent(&mut self, node: usize) {
        let links = self.links(node);
        self.nodes[node].restart(self.now, &links, &mut self.rng);
    }

    /// What the old operator had begun may or may not come through before the new one begins.
    fn restart_operator(&mut self, node: usize) {
        let pending = std::mem::take(&mut self.sides[node].pending);
        for call in pending {
            if call.outcome.is_none() && self.rng.one_in(2) {
                let _unknown = self.carry_out(node, &call.action);
            }
        }
        let side = &mut self.sides[node];
        side.leaving.clear();
        side.reported.clear();
        side.planner = Planner::new(&format!("n{node}"), PLANNER);
    }

    /// What holds after every step.
    pub fn check(&self, told: &str) {
        let mut owners = BTreeMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let nics: BTreeMap<&NicId, &BTreeSet<IpAddr>> = self
                .cloud
                .of(number)
                .filter_map(|nic| Some((nic.seen.nic.as_ref()?, &nic.seen.addresses)))
                .collect();
            for (key, record) in &node.journal {
                for address in &record.addresses {
                    let before = owners.insert(address.ip, (number, key));
                    assert_eq!(before, None, "{told}: {} has two pods", address.ip);
                    let has = nics
                        .get(&address.nic)
                        .is_some_and(|all| all.contains(&address.ip));
                    assert!(has, "{told}: the cloud took {} from {key}", address.ip);
                }
            }
            for (ip, (_, state)) in node.pool.addresses() {
                if let AddressState::Bound(key) | AddressState::Draining(key) = state {
                    assert!(
                        node.journal.contains_key(&key),
                        "{told}: {ip} is {key}'s, who is unknown"
                    );
                }
            }
            node.no_wrong_way(&self.links(number), told);
        }
    }

    /// Leaves everything in peace until nothing happens for a minute; then all must agree.
    pub fn rest(&mut self, told: &str) {
        self.faults.clear();
        let mut quiet_since = self.now;
        for _ in 0..3000 {
            if (0..NODES).any(|node| self.calm(node)) {
                quiet_since = self.now;
            }
            if self.now.0 - quiet_since.0 > 60_000 {
                break;
            }
            let timers = self
                .sides
                .iter()
                .filter_map(|side| side.planner.next_deadline(self.now));
            let pools = self
                .nodes
                .iter()
                .filter_map(|node| node.pool.next_deadline());
            let next = timers.chain(pools).chain(self.cloud.next_arrival()).min();
            let next = next.unwrap_or(self.now + Millis(10_000));
            self.now = next.max(self.now + Millis(1));
        }
        let last = &self.log[self.log.len().saturating_sub(16)..];
        let quiet = self.now.0 - quiet_since.0 > 60_000;
        assert!(quiet, "{told}: no end: {last:#?}");
        for node in 0..NODES {
            self.agrees(node, told);
        }
        self.check(told);
        for of in &mut self.nodes {
            self.inputs[0] += std::mem::take(&mut of.inputs);
            self.inputs[2] += std::mem::take(&mut of.plans);
            of.peak = of.in_use().iter().filter(|ip| ip.is_ipv4()).count();
        }
    }

    /// Everything that a node has to do, in order; whether it changed anything. A call that fails again and again (nobody
    /// knows when a subnet has IPv6 addresses again) changes nothing.
    fn calm(&mut self, node: usize) -> bool {
        let before = (
            self.sides[node].spec.generation,
            self.nodes[node].journal.len(),
        );
        let status = self.nodes[node].status.in_use.clone();
        while self.progress(node) {}
        for phase in [Phase::Adding, Phase::Draining] {
            for _ in 0..CONFIG.max_pods {
                self.change(node, phase);
            }
        }
        self.nodes[node].feed(self.now, ipam::Input::Tick);
        self.look(node);
        while self.progress(node) {}
        self.hear(node);
        self.nodes[node].report(self.now);
        self.look(node);
        let after = (
            self.sides[node].spec.generation,
            self.nodes[node].journal.len(),
        );
        before != after || status != self.nodes[node].status.in_use
    }

    fn agrees(&self, number: usize, told: &str) {
        let (node, side) = (&self.nodes[number], &self.sides[number]);
        let nics: BTreeMap<NicId, BTreeSet<IpAddr>> = self
            .cloud
            .of(number)
            .map(|nic| {
                assert_eq!(
                    nic.seen.state,
                    NicState::InUse,
                    "{told}: {} is left",
                    nic.seen.eni
                );
                (nic.seen.nic.clone().unwrap(), nic.seen.addresses.clone())
            })
            .collect();
        assert_eq!(nics, side.spec.nics, "{told}: cloud and spec");
        assert_eq!(side.spec, node.seen, "{told}: spec and agent");
        assert_eq!(side.spec.release, BTreeSet::new(), "{told}: marks are left");
        let held: BTreeSet<IpAddr> = nics.values().flatten().copied().collect();
        let pool = node.pool.addresses();
        assert_eq!(
            pool.keys().copied().collect::<BTreeSet<_>>(),
            held,
            "{told}: spec and pool"
        );
        let bound: BTreeSet<IpAddr> = node
            .journal
            .values()
            .flat_map(|r| &r.addresses)
            .map(|a| a.ip)
            .collect();
        assert_eq!(node.in_use(), bound, "{told}: pool and journal");
        assert_eq!(node.cooling.len(), 0, "{told}: notes are left");
        let demand = node.pool.demand(self.now);
        let counts = node.pool.counts();
        let short = counts
            .iter()
            .any(|(family, count)| count.total < demand[family].low);
        assert!(
            !short || !side.reported.is_empty(),
            "{told}: {counts:?}, {demand:?}, not told"
        );
        assert!(short || node.waiting.is_empty(), "{told}: ADDs wait");
        let of_family =
            |all: &BTreeSet<IpAddr>, v4| all.iter().filter(|ip| ip.is_ipv4() == v4).count();
        let pairs = nics
            .values()
            .map(|all| of_family(all, true).min(of_family(all, false)));
        let most = demand.values().map(|d| d.high).max().unwrap_or(0);
        // What one family has too many of is kept as long as the other has too few, and where pods hold its partners.
        assert!(
            short || pairs.sum::<usize>() <= most as usize,
            "{told}: {nics:?}, {demand:?}"
        );
        let slots = usize::from(LIMITS.ipv4_per_nic - 1);
        let most = (node.peak + CONFIG.warm_max as usize)
            .div_ceil(slots)
            .max(1);
        assert!(
            nics.len() <= most,
            "{told}: {} NICs, {most} are explained by {} in use at most",
            nics.len(),
            node.peak
        );
        assert!(!node.robbed, "{told}: the kernel was not looked at");
    }
}

fn take_nth<T: Ord + Clone>(set: &mut BTreeSet<T>, nth: usize) -> Option<T> {
    let found = set.iter().nth(nth.checked_rem(set.len())?)?.clone();
    set.take(&found)
}
