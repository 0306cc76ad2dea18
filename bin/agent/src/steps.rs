//! Every write of the agent by name, so that a test of the shipped binary can end it before or after each
//! (`--failpoint add.journal-ready.before`) and look at what the next start makes of it. Those that wire a pod are in
//! `tombolo_netlink::wire`, those of the runtime's directory in `tombolo_cni_dir`.

use tombolo_core::datapath::diff::Op;
use tombolo_failpoint::{Point, Table, points};

/// All tables of this program.
pub const TABLES: [Table; 3] = [
    POINTS,
    tombolo_netlink::wire::POINTS,
    tombolo_cni_dir::KEEPING,
];

points! {
    /// The agent's own.
    pub static POINTS;
    ADD_JOURNAL_ADDING = "add.journal-adding";
    ADD_JOURNAL_READY = "add.journal-ready";
    /// An ADD that failed before it touched the kernel.
    UNDO_JOURNAL_GONE = "undo.journal-gone";
    DEL_JOURNAL_DRAINING = "del.journal-draining";
    /// Source elements that DEL could not remove.
    REAP_SOURCES = "reap.sources";
    /// Connections of the node's own processes.
    REAP_SOCKETS = "reap.sockets";
    REAP_CONNECTIONS = "reap.connections";
    /// A note that an address rests, one file each.
    REAP_COOL = "reap.cool";
    REAP_JOURNAL_GONE = "reap.journal-gone";
    /// That note goes: the rest is over.
    REST_OVER = "rest.over";
    /// A file's content under its temporary name; the rename that follows belongs to the write that it serves.
    FILE_CONTENT = "file.content";
    /// The note of a DEL that was obeyed.
    NOTE_GONE = "note.gone";
    NOTE_QUARANTINE = "note.quarantine";
    START_DIRECTORY = "start.directory";
    START_DIRECTORY_MODE = "start.directory-mode";
    START_LOCK = "start.lock";
    /// A file of which only the temporary name is there.
    START_UNFINISHED = "start.unfinished";
    START_QUARANTINE = "start.quarantine";
    START_JOURNAL_DRAINING = "start.journal-draining";
    /// That of an earlier agent goes.
    START_OLD_SOCKET = "start.old-socket";
    START_SOCKET = "start.socket";
    /// The specification, for the next start.
    SPEC_KEEP = "spec.keep";
    /// Connections of an address's earlier owner.
    SCRUB_CONNECTIONS = "scrub.connections";
    REPAIR_KEEP_SETTING = "repair.keep-setting";
    REPAIR_SETTING = "repair.setting";
    REPAIR_LINK = "repair.link";
    REPAIR_ADDRESS = "repair.address";
    REPAIR_NEIGHBOUR = "repair.neighbour";
    REPAIR_ROUTE = "repair.route";
    REPAIR_RULE = "repair.rule";
    /// A rule of ours that no build of today writes.
    REPAIR_LEFTOVER = "repair.leftover-rule";
    /// A rule of the kernel's own that somebody flushed.
    REPAIR_SYSTEM_RULE = "repair.system-rule";
    REPAIR_NFT_TABLE = "repair.nft-table";
    REPAIR_NFT_ELEMENT = "repair.nft-element";
    /// Connections of UDP to where host ports led that were not there for a while.
    REPAIR_STALE_UDP = "repair.stale-udp";
    REPAIR_ALIAS = "repair.alias";
    MTU_POD_END = "mtu.pod-end";
    MTU_JOURNAL = "mtu.journal";
    OBJECT_STATUS = "object.status";
    OBJECT_ENDPOINT_CREATE = "object.endpoint-create";
    OBJECT_ENDPOINT_REPLACE = "object.endpoint-replace";
    OBJECT_ENDPOINT_DELETE = "object.endpoint-delete";
    OBJECT_EVENT = "object.event";
    UNINSTALL_LINKS = "uninstall.links";
    UNINSTALL_STATE = "uninstall.state";
    UNINSTALL_LEFTOVER = "uninstall.leftover-rule";
    UNINSTALL_NFT_TABLES = "uninstall.nft-tables";
    UNINSTALL_NIC = "uninstall.nic";
    UNINSTALL_SETTING = "uninstall.setting";
    UNINSTALL_FILES = "uninstall.files";
}

/// One operation of a repair.
pub const fn repair(op: &Op) -> &'static Point {
    match op {
        Op::SetSysctl(_) => &REPAIR_SETTING,
        Op::SetLink(..) => &REPAIR_LINK,
        Op::AddAddress(_) | Op::DelAddress(_) => &REPAIR_ADDRESS,
        Op::AddNeighbour(_) | Op::DelNeighbour(_) => &REPAIR_NEIGHBOUR,
        Op::AddRoute(_) | Op::DelRoute(_) => &REPAIR_ROUTE,
        Op::AddRule(_) | Op::DelRule(_) => &REPAIR_RULE,
        Op::ReplaceNat(_) => &REPAIR_NFT_TABLE,
        Op::UpdateNat(_) => &REPAIR_NFT_ELEMENT,
    }
}
