//! One observation turned into what should be done. No memory: what the planner remembers comes in as [`View`].
//!
//! Order: (1) what is missing below `low`: marks are withdrawn, NICs in use are filled from the lowest device index, NICs
//! made are attached, at last one NIC is made; (2) what exceeds `high` is marked; (3) one NIC that was spare for long
//! enough is given back: the others take over what the node would miss, it is emptied by marking all it has, then
//! detached, then deleted; (4) what the agent agreed to is unassigned; (5) NICs that do not come are detached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::growth::Growth;
use super::shape::{NicShape, Shape, Underway};
use super::{Action, Call, Consent, NicState, Observation, Ownership, Problem};
use crate::types::{Family, Reason};

/// What the planner remembers, as far as planning needs it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub observation: &'a Observation,
    pub underway: &'a Underway,
    /// Subnets that refused, and how many IPv4 addresses they were asked for.
    pub held_subnets: &'a BTreeMap<String, u32>,
    /// Subnets that refused IPv6 addresses.
    pub held6: &'a BTreeSet<String>,
    /// The cloud refuses further NICs on this instance, in these words.
    pub no_more_nics: Option<&'a str>,
    /// Addresses that the node refused to give back not long ago.
    pub refused: &'a BTreeSet<IpAddr>,
    /// NICs that were spare for long enough.
    pub idle: BTreeSet<String>,
    /// NICs whose attaching is given up.
    pub hopeless: BTreeSet<String>,
    /// The node's name and a word not used before: the name of a new Eni object is `<node>-<device index>-<word>`.
    pub node: &'a str,
    pub word: &'a str,
}

/// What should be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub calls: Vec<Action>,
    pub mark: BTreeSet<IpAddr>,
    pub unmark: BTreeSet<IpAddr>,
    pub problems: BTreeMap<Reason, Problem>,
    /// What pods can use now is what the node wants.
    pub met: bool,
}

/// NICs that the node could do without at this moment.
pub(super) fn spare(view: &View<'_>, shape: &Shape<'_>) -> BTreeSet<String> {
    let observation = view.observation;
    // An address in use that no NIC shows is on one of them all the same: readings that leave addresses out make a NIC look
    // empty that is not.
    let shown = |ip: &IpAddr| shape.nics.iter().any(|n| n.nic.addresses.contains(ip));
    if !observation.in_use.iter().all(shown) {
        return BTreeSet::new();
    }
    let releasable: BTreeSet<IpAddr> = observation.releasable.iter().copied().collect();
    let total = shape.firm_total();
    let room: u32 = shape
        .nics
        .iter()
        .filter(|n| n.serves())
        .map(NicShape::room)
        .sum();
    let may_go = |ip: &IpAddr| {
        let offered = releasable.contains(ip)
            || observation.marked.contains(ip)
            || view.underway.doomed.contains(ip);
        offered && !observation.in_use.contains(ip) && !view.refused.contains(ip)
    };
    let is_spare = |n: &&NicShape<'_>| {
        n.nic.ownership == Ownership::Ours
            && n.serves()
            && n.settled()
            && n.nic.addresses.iter().all(may_go)
            // What the others have, and what they could take over.
            && total - n.firm_pairs() + (room - n.room()) >= shape.low
    };
    shape
        .nics
        .iter()
        .filter(is_spare)
        .map(|n| n.nic.eni.clone())
        .collect()
}

/// The plan.
pub(super) fn plan(view: &View<'_>, shape: &Shape<'_>) -> Plan {
    let mut plan = Plan {
        met: shape.firm_total() >= shape.low,
        ..Plan::default()
    };
    let total = shape.total(view.underway);
    let mut wanted_marks = if total < shape.low {
        Growth::new(view, shape, total).grow(&mut plan);
        BTreeSet::new()
    } else {
        discard_unneeded(view, shape, &mut plan);
        let retiring = retiring(view, shape);
        // The node has seen that it holds no address any more: else it may be giving one of them to a pod.
        if let Some(nic) = retiring.filter(|n| n.nic.addresses.is_empty() && view.observation.heard)
            && let Some(id) = &nic.nic.nic
        {
            plan.calls.push(Action::DetachNic {
                eni: nic.nic.eni.clone(),
                nic: id.clone(),
            });
        }
        // The others first take over what the node would miss; the NIC stays whole until they have.
        let rest = |n: &NicShape<'_>| shape.firm_total() - n.firm_pairs();
        match retiring.filter(|n| rest(n) < shape.low) {
            Some(nic) => {
                let have = total.saturating_sub(nic.pairs());
                Growth::new(view, shape, have).take_over(nic, &mut plan);
                wanted_marks(view, shape, None)
            }
            None => wanted_marks(view, shape, retiring),
        }
    };
    let marked = &view.observation.marked;
    let doomed = &view.underway.doomed;
    // What may go at any time must not be handed out, whatever the object asked for until now.
    let shown = shape.nics.iter().flat_map(|n| &n.nic.addresses);
    wanted_marks.extend(shown.filter(|ip| doomed.contains(*ip)));
    plan.mark = wanted_marks
        .iter()
        .filter(|ip| !marked.contains(*ip))
        .copied()
        .collect();
    // Nor while a reading leaves it out.
    plan.unmark = marked
        .iter()
        .filter(|ip| !wanted_marks.contains(*ip) && !doomed.contains(*ip))
        .copied()
        .collect();
    unassign(view, shape, &wanted_marks, &mut plan);
    give_up(view, shape, &mut plan);
    plan
}

/// NICs that do not come: detached, they can be attached anew or deleted. Their addresses were never the node's.
fn give_up(view: &View<'_>, shape: &Shape<'_>, plan: &mut Plan) {
    for n in shape.nics.iter().filter(|n| {
        n.nic.ownership == Ownership::Ours
            && n.state == NicState::Attaching
            && view.hopeless.contains(&n.nic.eni)
    }) {
        if let Some(id) = &n.nic.nic {
            plan.calls.push(Action::DetachNic {
                eni: n.nic.eni.clone(),
                nic: id.clone(),
            });
        }
    }
}

/// NICs made or intended that nobody needs.
fn discard_unneeded(view: &View<'_>, shape: &Shape<'_>, plan: &mut Plan) {
    for n in shape
        .nics
        .iter()
        .filter(|n| n.nic.ownership == Ownership::Ours)
    {
        let idle = matches!(n.state, NicState::Available | NicState::Intended);
        if idle && !n.coming(view.underway) {
            plan.calls.push(Action::DeleteNic {
                eni: n.nic.eni.clone(),
                nic: n.nic.nic.clone(),
            });
        }
    }
}

/// The NIC to give back: one at a time, first what is empty already, then what is on its way, then the highest index.
fn retiring<'s, 'a>(view: &View<'_>, shape: &'s Shape<'a>) -> Option<&'s NicShape<'a>> {
    if shape.nics.iter().any(|n| n.state == NicState::Detaching) {
        return None;
    }
    let yielding =
        |ip: &IpAddr| view.observation.marked.contains(ip) || view.underway.doomed.contains(ip);
    shape
        .nics
        .iter()
        .filter(|n| view.idle.contains(&n.nic.eni))
        .max_by_key(|n| {
            (
                n.nic.addresses.is_empty(),
                n.nic.addresses.iter().all(yielding),
                n.nic.device_index,
            )
        })
}

/// All addresses that should be marked now.
fn wanted_marks(
    view: &View<'_>,
    shape: &Shape<'_>,
    retiring: Option<&NicShape<'_>>,
) -> BTreeSet<IpAddr> {
    let observation = view.observation;
    let mut wanted = BTreeSet::new();
    let mut total = shape.firm_total();
    let mut by_family: BTreeMap<Family, u32> = Family::ALL
        .into_iter()
        .map(|family| {
            (
                family,
                shape
                    .nics
                    .iter()
                    .filter(|n| n.serves())
                    .map(|n| n.firm(family))
                    .sum(),
            )
        })
        .collect();
    if let Some(n) = retiring {
        wanted.extend(n.nic.addresses.iter().copied());
        total -= n.firm_pairs();
        for (family, count) in &mut by_family {
            *count -= n.firm(*family);
        }
    }
    // What was marked stays the first choice, so that a choice once made is kept; the agent's order decides the rest.
    let free = |ip: &IpAddr| {
        !observation.in_use.contains(ip)
            && !view.refused.contains(ip)
            && !view.underway.doomed.contains(ip)
    };
    let old: Vec<IpAddr> = observation.marked.iter().copied().filter(free).collect();
    let new = observation
        .releasable
        .iter()
        .copied()
        .filter(|ip| free(ip) && !observation.marked.contains(ip));
    let candidates: Vec<IpAddr> = old.iter().copied().chain(new).collect();
    let on = |n: &NicShape<'_>, family: Family| {
        let here = |ip: &&IpAddr| Family::of(**ip) == family && n.nic.addresses.contains(*ip);
        candidates.iter().filter(here).copied().collect::<Vec<_>>()
    };
    let givers = || {
        let mut givers: Vec<&NicShape<'_>> = shape.nics.iter().filter(|n| n.serves()).collect();
        givers.retain(|n| retiring.is_none_or(|r| r.nic.eni != n.nic.eni));
        givers.reverse();
        // NICs with marks first: a choice once made is kept. Then NICs without pods: they may become spare.
        let busy = |n: &NicShape<'_>| {
            n.nic
                .addresses
                .iter()
                .any(|ip| observation.in_use.contains(ip))
        };
        givers.sort_by_key(|n| (!n.nic.addresses.iter().any(|ip| old.contains(ip)), busy(n)));
        givers
    };
    // Whole pairs above `high`.
    let mut excess = total.saturating_sub(shape.high);
    for n in givers() {
        let lists: Vec<Vec<IpAddr>> = observation
            .families
            .iter()
            .map(|family| on(n, family))
            .collect();
        let here = lists.iter().map(Vec::len).min().unwrap_or(0);
        let take = excess
            .min(n.firm_pairs())
            .min(u32::try_from(here).unwrap_or(u32::MAX));
        for list in &lists {
            for ip in list.iter().take(take as usize) {
                wanted.insert(*ip);
                if let Some(count) = by_family.get_mut(&Family::of(*ip)) {
                    *count -= 1;
                }
            }
        }
        excess -= take;
    }
    // Addresses without a partner, and those of a family that the profile no longer has.
    for family in Family::ALL {
        let keep = if observation.families.contains(family) {
            shape.high
        } else {
            0
        };
        let mut surplus = by_family
            .get(&family)
            .map_or(0, |count| count.saturating_sub(keep));
        for n in givers() {
            let partners = if observation.families.contains(family) {
                n.firm_pairs()
            } else {
                0
            };
            let single = n.firm(family).saturating_sub(partners);
            let take = surplus.min(single);
            let picked: Vec<IpAddr> = on(n, family)
                .into_iter()
                .filter(|ip| !wanted.contains(ip))
                .collect();
            let picked = picked.into_iter().take(take as usize).collect::<Vec<_>>();
            surplus -= u32::try_from(picked.len()).unwrap_or(surplus);
            wanted.extend(picked);
        }
    }
    wanted
}

/// Takes back what the agent agreed to, and goes on with what was once asked for.
fn unassign(view: &View<'_>, shape: &Shape<'_>, wanted: &BTreeSet<IpAddr>, plan: &mut Plan) {
    let observation = view.observation;
    for n in &shape.nics {
        let Some(id) = &n.nic.nic else { continue };
        if n.nic.ownership == Ownership::Foreign || n.state != NicState::InUse {
            continue;
        }
        let coming = |family| Call::Assign {
            eni: n.nic.eni.clone(),
            family,
        };
        if Family::ALL
            .into_iter()
            .map(coming)
            .any(|call| view.underway.has(&call))
        {
            continue;
        }
        let agreed = |ip: &&IpAddr| {
            let ready = observation.answers.get(*ip) == Some(&Consent::Ready)
                && observation.marked.contains(*ip);
            ready && wanted.contains(*ip) && !observation.in_use.contains(*ip)
        };
        let addresses: BTreeSet<IpAddr> = n.nic.addresses.iter().filter(agreed).copied().collect();
        if !addresses.is_empty() {
            plan.calls.push(Action::UnassignAddresses {
                eni: n.nic.eni.clone(),
                nic: id.clone(),
                addresses,
            });
        }
    }
}
