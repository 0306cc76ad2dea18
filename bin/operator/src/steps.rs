//! Every write of the operator by name, so that a test of the shipped binary can end it before or after each
//! (`--failpoint cloud.create-nic.after`) and look at what the next one makes of it. Each is where the write is made, so
//! that no caller can forget it: cloud calls in `cloud.rs`, objects in `api.rs`.

use tombolo_cloud_sim::wire::Verb;
use tombolo_failpoint::{Point, Table, points};

/// All tables of this program.
pub const TABLES: [Table; 1] = [POINTS];

points! {
    pub static POINTS;
    CLOUD_CREATE_NIC = "cloud.create-nic";
    CLOUD_ATTACH_NIC = "cloud.attach-nic";
    CLOUD_DETACH_NIC = "cloud.detach-nic";
    CLOUD_DELETE_NIC = "cloud.delete-nic";
    CLOUD_ASSIGN = "cloud.assign";
    CLOUD_UNASSIGN = "cloud.unassign";
    NRS_CREATE = "nrs.create";
    NRS_SPEC = "nrs.spec";
    NRS_CONDITIONS = "nrs.conditions";
    NRS_HOLD = "nrs.hold";
    NRS_DELETE = "nrs.delete";
    NRS_LET_GO = "nrs.let-go";
    ENI_CREATE = "eni.create";
    ENI_STATUS = "eni.status";
    ENI_INDEX = "eni.index";
    ENI_DELETE = "eni.delete";
    ENI_LET_GO = "eni.let-go";
    ENDPOINT_DELETE = "endpoint.delete";
    NODE_CONDITION = "node.condition";
    NODE_TAINT = "node.taint";
    WEBHOOK_SECRET = "webhook.secret";
    WEBHOOK_TRUST = "webhook.trust";
    LEASE_CREATE = "lease.create";
    LEASE_WRITE = "lease.write";
    LEASE_RELEASE = "lease.release";
    OBJECT_EVENT = "object.event";
}

/// The point of a cloud call; `None` for one that only reads.
pub fn cloud<V: Verb>() -> Option<&'static Point> {
    match V::NAME {
        "CreateNic" => Some(&CLOUD_CREATE_NIC),
        "AttachNic" => Some(&CLOUD_ATTACH_NIC),
        "DetachNic" => Some(&CLOUD_DETACH_NIC),
        "DeleteNic" => Some(&CLOUD_DELETE_NIC),
        "AssignAddresses" => Some(&CLOUD_ASSIGN),
        "UnassignAddresses" => Some(&CLOUD_UNASSIGN),
        name => {
            debug_assert!(
                name.starts_with("Describe"),
                "{name} writes and has no point"
            );
            None
        }
    }
}
