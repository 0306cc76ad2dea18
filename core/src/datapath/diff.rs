//! From what is to what should be, as ordered operations.

use super::{Address, LinkState, NatState, Neighbour, NodeState, Route, Rule, Sysctl};

/// One change. Removals name exactly what was observed. Order in a plan: what admits traffic comes after what steers it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    SetSysctl(Sysctl),
    SetLink(u32, LinkState),
    AddAddress(Address),
    DelAddress(Address),
    AddNeighbour(Neighbour),
    DelNeighbour(Neighbour),
    AddRoute(Route),
    DelRoute(Route),
    AddRule(Rule),
    DelRule(Rule),
    /// Replace the tables as one transaction (they are missing, or their fixed part differs).
    ReplaceNat(NatState),
    /// Change elements only: from the first to the second.
    UpdateNat(Box<(NatState, NatState)>),
}

/// The operations that turn `observed` into `desired`. Empty when they agree. `observed.nat` is `None` in `nat` when our
/// tables are missing or their fixed part is not what this build writes.
#[must_use]
pub fn plan(_desired: &NodeState, _observed: &NodeState, _nat_intact: bool) -> Vec<Op> {
    todo!()
}
