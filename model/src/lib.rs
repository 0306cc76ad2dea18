//! The address protocol of cloud, operator, objects, agent and pod, explored to exhaustion for small sizes.
//!
//! What decides is the core's own code: [`Pool`](tombolo_core::ipam::Pool) and
//! [`Planner`](tombolo_core::eni::Planner) with their inputs and actions, `answers_to`, `change_marks`, `must_be_known`,
//! `taking` and `Input::of_specification`. What surrounds them is modelled here, as small as it can be:
//!
//! | file | models | the original |
//! |---|---|---|
//! | `agent.rs` | ADD and DEL by the stages between which an agent can end; its start | `bin/agent/src/{attach,detach,reaper,restore,resync}.rs` |
//! | `agent.rs` | the status, written only into the version that was seen | `bin/agent/src/cluster/status.rs` |
//! | `operator.rs` | a look at a node; what is believed of the cloud | `bin/operator/src/node/{view,spec,worker,execute}.rs`, `inventory/snapshot.rs` |
//! | `cloud.rs` | calls in any order, answers late, lost or twice | the cloud |
//! | `state.rs` | the objects; one form for states that behave alike | the API server |
//! | `protocol.rs` | which steps there are; the invariants; seeded mistakes | |
//! | `drain.rs` | whether anything is lost for ever | |
//! | `size.rs` | the sizes that are explored | |
//!
//! **Explored**: every order of steps of every part, within the faults that a size allows (`size.rs`). A watch may pass over
//! versions and keeps its order, as the API server promises. A call is carried out at any time after it was made, and its
//! answer arrives at any time after that; so calls and answers overtake each other, also those of an operator that is no
//! more. What an operator writes meets the object as it is by then, however old the copy that it looked at. An operator that
//! lost its lease goes on in every way until it sees a later term.
//!
//! **Taken for granted**: the cloud does not give out an address while a call that takes it is on its way (`cloud.rs`);
//! `taking_hold` is longer than a call lives and than who leads trusts any reading (`protocol.rs`); a journal's file is removed in
//! less time than an address rests (`agent.rs`).
//!
//! **Time** is coarse: all rests of a node end at once, and so do all waits of an operator. Numbers that only grow
//! (versions, generations, the pool's queue) are numbered anew, so that the space is finite without any bound on depth.
//!
//! **Not in it**: NICs that come and go (each node has its primary NIC), a second family, the end of an instance (which
//! waives the node's consent), pods whose link vanishes without DEL. The core's own properties and the lab cover them.
//!
//! **The checker** is stateright. Its `eventually` looks at each path by itself and misses cycles, so that the third
//! invariant is asked of every state as an `always`: drain it, see what is left.

pub mod address;
pub mod agent;
pub mod cloud;
pub mod drain;
pub mod operator;
pub mod protocol;
pub mod size;
pub mod state;

/// Invariant 1.
pub const UNIQUE: &str = "no address is at two pods";
/// Invariant 2.
pub const UNTAKEN: &str = "no pod has an address that the cloud took back";
/// Invariant 3.
pub const UNLOST: &str = "no address is lost for ever";
/// Invariant 4.
pub const AGREED: &str = "the node agreed to every release";
