//! Nothing of an address's earlier life reaches the pod that has it now.
//!
//! At ADD the kernel is asked, once an address, where it would send a packet for the pod. One that is not the pod's link is
//! another's: a route of ours that was left behind is removed, and our rule is put back if somebody flushed it a moment ago;
//! anything else is somebody's intent, and is named.

use std::net::IpAddr;

use rustix::io::Errno;
use tombolo_core::datapath::conventions::{NO_POD_METRIC, POD_TABLE, PRIORITY_TO_POD};
use tombolo_core::datapath::{EndpointState, Route, RouteKind, Rule, RuleAction, Selector};
use tombolo_core::types::Family;

use super::points;
use crate::route::{self, Way};
use crate::{Error, Kernel, rule};

/// Checks that packets for each address of the endpoint go to its link.
pub fn verify(kernel: &mut Kernel, state: &EndpointState) -> Result<(), Error> {
    for wanted in &state.routes {
        if arrives(kernel, wanted)?.is_ok() {
            continue;
        }
        remove_stale(kernel, wanted)?;
        points::ADD_ROUTE_AGAIN.around(|| kernel.route.request(route::add_new(wanted)))?;
        restore_lookup(kernel, wanted)?;
        if let Err(way) = arrives(kernel, wanted)? {
            return Err(Error::Diverted {
                ip: wanted.dst.addr(),
                way,
            });
        }
    }
    Ok(())
}

/// Whether the way to this route's destination is this route; else what it is.
fn arrives(kernel: &mut Kernel, wanted: &Route) -> Result<Result<(), String>, Error> {
    let RouteKind::Link { ifindex } = wanted.kind else {
        return Ok(Ok(()));
    };
    match route::way(&mut kernel.route, wanted.dst.addr()) {
        Ok(Way {
            ifindex: Some(found),
            ..
        }) if found == ifindex => Ok(Ok(())),
        Ok(way) => Ok(Err(way.to_string())),
        Err(error @ Error::Refused { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The rule that asks the table of pods: the comparison would put it back a moment later.
fn restore_lookup(kernel: &mut Kernel, wanted: &Route) -> Result<(), Error> {
    let lookup = Rule {
        family: Family::of(wanted.dst.addr()),
        priority: PRIORITY_TO_POD,
        selector: Selector::All,
        action: RuleAction::Lookup(POD_TABLE),
    };
    let add = rule::add(&lookup).tolerate(Errno::EXIST);
    points::ADD_LOOKUP_RULE.around(|| kernel.route.request(add))
}

/// Removes routes of ours to the same destination that are neither the pod's nor the one for when there is no pod.
fn remove_stale(kernel: &mut Kernel, wanted: &Route) -> Result<(), Error> {
    let is_stale = |found: &Route| {
        let same: (u32, IpAddr) = (found.table, found.dst.addr());
        same == (POD_TABLE, wanted.dst.addr())
            && found != wanted
            && (&found.kind, found.metric) != (&RouteKind::Unreachable, NO_POD_METRIC)
    };
    for stale in route::list(&mut kernel.route)?.ours {
        if is_stale(&stale) {
            let remove = || kernel.route.request(route::del(&stale));
            super::tolerate_missing(points::ADD_STALE_ROUTE.around(remove))?;
        }
    }
    Ok(())
}
