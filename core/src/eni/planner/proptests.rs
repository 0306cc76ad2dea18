//! Random demand, faults, neighbours and restarts. The world panics where a promise is broken; here stands what must hold
//! once things are quiet.

use proptest::prelude::*;

use super::Planner;
use super::world::{CONFIG, Fault, World};
use crate::eni::{NicState, Ownership};
use crate::types::{Families, Family, Millis, Reason};

#[derive(Clone, Debug)]
enum Op {
    Pods(u32),
    Warm(u32, u32),
    Pass(u64),
    Faults(Vec<u8>),
    /// Somebody else takes (negative) or frees addresses of a subnet.
    Subnet(usize, i32),
    Restart,
    Stubborn(bool),
    /// The cloud's readings leave out every so many-th address; 0: none.
    Hide(usize),
    /// A subnet has no IPv6 address left, or has some again.
    Full6(usize, bool),
    ForeignNic,
    /// Calls take their time from here on, or not.
    Lag(bool),
    /// A call under way goes on by one stage.
    Progress(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u32..24).prop_map(Op::Pods),
        1 => (0_u32..4, 0_u32..6).prop_map(|(low, more)| Op::Warm(low, low + more)),
        4 => prop_oneof![Just(0), Just(900), Just(3000), Just(61_000), Just(130_000)].prop_map(Op::Pass),
        2 => proptest::collection::vec(0_u8..7, 1..6).prop_map(Op::Faults),
        1 => (0_usize..4).prop_map(Op::Hide),
        1 => (0_usize..2, any::<bool>()).prop_map(|(subnet, full)| Op::Full6(subnet, full)),
        1 => (0_usize..2, -12_i32..12).prop_map(|(subnet, change)| Op::Subnet(subnet, change)),
        1 => Just(Op::Restart),
        1 => any::<bool>().prop_map(Op::Stubborn),
        1 => Just(Op::ForeignNic),
        2 => any::<bool>().prop_map(Op::Lag),
        8 => (0_usize..4).prop_map(Op::Progress),
    ]
}

fn families() -> impl Strategy<Value = Families> {
    prop_oneof![Just(Families::V4), Just(Families::V6), Just(Families::Dual)]
}

const FAULTS: [Fault; 7] = [
    Fault::Half,
    Fault::LoseReply,
    Fault::Refuse(Reason::CloudThrottled),
    Fault::Refuse(Reason::CloudError),
    Fault::Refuse(Reason::SubnetFull),
    Fault::Refuse(Reason::NicLimit),
    Fault::Refuse(Reason::AddressLimit),
];

fn apply(world: &mut World, planner: &mut Planner, op: &Op) {
    match op {
        Op::Pods(pods) => world.pods = *pods,
        Op::Warm(low, high) => world.warm = (*low, *high),
        Op::Pass(ms) => world.now = world.now + Millis(*ms),
        Op::Faults(faults) => {
            world.faults = faults
                .iter()
                .map(|fault| FAULTS[usize::from(*fault)])
                .collect()
        }
        Op::Subnet(subnet, change) => {
            let free = &mut world.subnets[*subnet].free4;
            *free = free.saturating_add_signed(*change);
        }
        Op::Restart => {
            // What the old one had begun comes through before the new one begins.
            while world.progress(planner, 0) {}
            *planner = Planner::new("n", CONFIG);
        }
        Op::Lag(lag) => {
            world.lag = *lag;
            while !lag && world.progress(planner, 0) {}
        }
        Op::Progress(index) => {
            world.progress(planner, *index);
        }
        Op::Stubborn(yes) => world.stubborn = *yes,
        Op::Hide(0) => world.hidden.clear(),
        Op::Hide(one_in) => {
            let all = world.nics.iter().flat_map(|nic| &nic.addresses);
            world.hidden = all.step_by(*one_in).copied().collect();
            world.blinded = true;
        }
        Op::Full6(subnet, full) => {
            let id = world.subnets[*subnet].id.clone();
            if *full {
                world.full6.insert(id);
            } else {
                world.full6.remove(&id);
            }
        }
        // One that comes while a call is under way may take its place: the cloud refuses that call, which is another test.
        Op::ForeignNic if !world.pending.is_empty() => {}
        Op::ForeignNic => {
            let attached = world
                .nics
                .iter()
                .filter(|nic| nic.state != NicState::Available)
                .count();
            let free = (1..9).find(|index| world.nics.iter().all(|nic| nic.device_index != *index));
            if let Some(index) = free.filter(|_| attached < usize::from(world.limits.max_nics) - 1)
            {
                let eni = format!("foreign-{index}");
                if world
                    .nics
                    .iter()
                    .all(|nic| nic.ownership != Ownership::Foreign)
                {
                    world.add_nic(&eni, index, Ownership::Foreign);
                }
            }
        }
    }
}

fn check(world: &World, planner: &Planner) -> Result<(), TestCaseError> {
    let pairs = world.pairs();
    prop_assert!(
        world.marked.is_empty(),
        "marks are left: {:?}",
        world.marked
    );
    for nic in &world.nics {
        prop_assert_eq!(nic.state, NicState::InUse, "{} is left over", nic.eni);
    }
    if pairs >= world.low() {
        prop_assert!(
            pairs <= world.high(),
            "{pairs} pairs, {} are the most",
            world.high()
        );
        prop_assert!(
            planner.reported.is_empty(),
            "still reported: {:?}",
            planner.reported
        );
        for nic in world
            .nics
            .iter()
            .filter(|nic| nic.ownership == Ownership::Ours)
        {
            let idle = nic.addresses.is_disjoint(&world.in_use());
            let without = pairs - world.pairs_on(nic);
            prop_assert!(!idle || without < world.low(), "{} is not needed", nic.eni);
        }
        return Ok(());
    }
    // Less than wanted: nothing more could be had, and it was said.
    let free = |subnet: &str| {
        world
            .subnets
            .iter()
            .find(|s| s.id == subnet)
            .map_or(0, |s| s.free4)
    };
    let needs4 = u32::from(world.families.contains(Family::V4));
    for nic in world
        .nics
        .iter()
        .filter(|nic| nic.ownership != Ownership::Foreign)
    {
        let cap4 = u32::from(world.limits.ipv4_per_nic) - 1;
        let cap6 = u32::from(world.limits.ipv6_per_nic) - u32::from(nic.own6);
        let cap = world
            .families
            .iter()
            .map(|f| if f == Family::V4 { cap4 } else { cap6 })
            .min()
            .unwrap_or(0);
        let room = cap > world.pairs_on(nic);
        prop_assert!(
            !room || (needs4 == 1 && free(&nic.subnet) == 0),
            "{} has room",
            nic.eni
        );
    }
    if world.nics.len() < usize::from(world.limits.max_nics) {
        prop_assert!(
            world.subnets.iter().all(|s| s.free4 < 1 + needs4),
            "a NIC could be made"
        );
        prop_assert!(
            planner.reported.contains(&Reason::SubnetFull),
            "{:?}",
            planner.reported
        );
    } else {
        let said = [Reason::NicLimit, Reason::SubnetFull]
            .iter()
            .any(|reason| planner.reported.contains(reason));
        prop_assert!(said, "{:?}", planner.reported);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn converges_within_limits_and_takes_nothing_without_consent(
        families in families(),
        limits in (2_u16..5, 3_u16..7, 3_u16..7),
        free in (6_u32..40, 0_u32..40),
        ops in proptest::collection::vec((op(), 0_usize..4), 1..40),
    ) {
        let mut world = World::new(limits, families, &[("s1", free.0), ("s2", free.1)]);
        let mut planner = Planner::new("n", CONFIG);
        for (op, steps) in &ops {
            apply(&mut world, &mut planner, op);
            for _ in 0..*steps {
                world.step(&mut planner);
            }
        }
        world.faults.clear();
        world.stubborn = false;
        world.hidden.clear();
        world.full6.clear();
        world.settle(&mut planner);
        check(&world, &planner)?;
        // A fixed point: the same observation again asks for nothing.
        prop_assert!(!world.step(&mut planner));
    }

    #[test]
    fn a_steady_demand_without_faults_makes_no_needless_nic(
        families in families(),
        limits in (2_u16..6, 3_u16..8, 3_u16..8),
        pods in proptest::collection::vec(0_u32..30, 1..8),
    ) {
        let mut world = World::new(limits, families, &[("s1", 500), ("s2", 500)]);
        let mut planner = Planner::new("n", CONFIG);
        let mut peak = 0;
        for count in pods {
            world.pods = count;
            peak = peak.max(world.low());
            world.settle(&mut planner);
            let cap4 = u32::from(limits.1) - 1;
            let cap = |own6: u32| {
                let cap6 = u32::from(limits.2) - own6;
                families.iter().map(|f| if f == Family::V4 { cap4 } else { cap6 }).min().unwrap_or(1)
            };
            let more = peak.saturating_sub(cap(1)).div_ceil(cap(0));
            let most = (1 + more).min(u32::from(limits.0));
            prop_assert!(world.nics.len() <= most as usize, "{} NICs for a peak of {peak}", world.nics.len());
        }
    }
}
