//! Desired kernel state, computed.

use super::{Endpoint, EndpointState, NodeInput, NodeState};
use crate::types::Nic;

/// The whole node.
#[must_use]
pub fn node(_input: &NodeInput) -> NodeState {
    todo!()
}

/// What one endpoint contributes. `nics` must hold every NIC that the endpoint's addresses name; an address whose NIC is
/// absent gets its host route but no source element, so that its packets are dropped rather than sent out elsewhere.
#[must_use]
pub fn endpoint(_endpoint: &Endpoint, _nics: &[Nic]) -> EndpointState {
    todo!()
}
