//! Names that we put on objects, nodes and cloud resources.

/// Label on Eni and PodEndpoint: the node's name.
pub const LABEL_NODE: &str = "tombolo.dev/node";
/// Finalizer on Eni: the cloud NIC is gone or no longer ours.
pub const FINALIZER_ENI: &str = "tombolo.dev/eni";
/// Finalizer on NetResourceSet: all its NICs but the primary are gone.
pub const FINALIZER_NRS: &str = "tombolo.dev/netresourceset";
/// Start-up taint that keeps pods off a node until its agent serves (effect NoSchedule).
pub const TAINT_NOT_READY: &str = "tombolo.dev/agent-not-ready";
/// Node condition that the operator keeps, from what the agent says.
pub const CONDITION_NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";
/// Condition of a NetResourceSet that its agent keeps: pods can be attached.
pub const CONDITION_READY: &str = "Ready";
/// Cloud tag: which cluster made this NIC. Nothing without it is ever changed.
pub const TAG_CLUSTER: &str = "tombolo.dev/cluster";
/// Cloud tag: name of the Eni object that intended this NIC.
pub const TAG_ENI: &str = "tombolo.dev/eni";
/// Cloud tag: name of the node that it was made for.
pub const TAG_NODE: &str = "tombolo.dev/node";
