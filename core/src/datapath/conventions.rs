//! Every number that we put into a kernel. Whoever wonders whether Tombolo collides with another program reads this page.
//!
//! Order of the policy rules, the same for both families. All of them carry [`PROTOCOL`]; their number depends on the
//! NICs and subnets of the node, never on its pods:
//!
//! | priority | rule | why |
//! |---|---|---|
//! | 512 | lookup 990 | table of local pod routes; a miss falls through |
//! | 900 | iif primary, fwmark NIC lookup 1000+index (one per other NIC) | answers from another node to what came in by that NIC and was for a Service |
//! | 1000 | iif NIC goto 2000 (one per NIC) | what a NIC delivers and no pod owns is the host's business: the mark of the NIC serves reverse-path checks only |
//! | 1024 | fwmark primary lookup main | pods of the primary NIC, IPv4 to outside the VPC, replies to connections that came in there |
//! | 1536 | fwmark NIC lookup 1000+index (one per other NIC) | pods and replies of that NIC |
//! | 1537 | from NIC's own address lookup 1000+index (one per other NIC) | the node's own replies from that NIC's address |
//! | 1600 | fwmark any NIC blackhole | a NIC whose table lost its routes: drop, never another NIC |
//! | 1700 | iif lo goto 2000 | the node's own traffic |
//! | 1800 | from pod range blackhole (one per subnet) | a pod packet without mark (our nft table is gone): drop |
//! | 2000 | nop | end of ours |

use crate::types::NicId;

/// Route and rule protocol number that marks what is ours (`ip route show proto 116`). 116 is unassigned in
/// iproute2's `rt_protos` and in the kernel's `rtnetlink.h`.
pub const PROTOCOL: u8 = 116;

/// Table of the routes to local pods.
pub const POD_TABLE: u32 = 990;
/// Table of the NIC with device index n is `NIC_TABLE_BASE + n`. The primary NIC has none: it uses main.
pub const NIC_TABLE_BASE: u32 = 1000;
/// The kernel's main table.
pub const MAIN_TABLE: u32 = 254;

/// Metric of all our routes but those of the next line. IPv6 turns 0 into this one; giving it in both families makes dumps
/// compare.
pub const ROUTE_METRIC: u32 = 1024;
/// Metric of the `unreachable` route that every pod address of this node has in [`POD_TABLE`], whether a pod has the
/// address or not. A pod's own route is better, so that ADD and DEL need not touch this one; without a pod, it keeps
/// packets for the address from being sent back to where they came from.
pub const NO_POD_METRIC: u32 = 2048;

/// Lookup of [`POD_TABLE`].
pub const PRIORITY_TO_POD: u32 = 512;
/// What the primary NIC delivers and another NIC's request asked for.
pub const PRIORITY_BACK: u32 = 900;
/// What a NIC delivers and no pod owns.
pub const PRIORITY_FROM_NIC: u32 = 1000;
/// Traffic marked for the primary NIC.
pub const PRIORITY_MARK_PRIMARY: u32 = 1024;
/// Traffic marked for another NIC.
pub const PRIORITY_MARK_NIC: u32 = 1536;
/// The node's own traffic from another NIC's address.
pub const PRIORITY_NIC_SOURCE: u32 = 1537;
/// Marked, but nothing matched: drop.
pub const PRIORITY_MARK_MISS: u32 = 1600;
/// The node's own traffic skips what follows.
pub const PRIORITY_LOCAL: u32 = 1700;
/// Pod source without mark: drop.
pub const PRIORITY_UNMARKED_POD: u32 = 1800;
/// End of our rules.
pub const PRIORITY_END: u32 = 2000;

/// Inside a pod: an attachment beside the one that has the pod's default route asks a table of its own for what comes from
/// its address, or is bound to its interface. Before main.
pub const PRIORITY_POD_OWN_TABLE: u32 = 512;
/// That table is this number plus the index of the host end.
pub const POD_OWN_TABLE_BASE: u32 = 116_000;

/// Bits of the packet and connection mark that we read and write. kube-proxy (0x4000, 0x8000), the portmap plugin
/// (0x2000), Cilium's and AWS's low bits and wg-quick's 0xca6c lie outside.
pub const MARK_MASK: u32 = 0x0fff_0000;
/// Present in every mark of ours.
pub const MARK_MAGIC: u32 = 0x0b00_0000;
/// Selects all marks of ours, whatever the NIC.
pub const MARK_MAGIC_MASK: u32 = 0x0f00_0000;
/// Highest device index that a mark can name.
pub const MAX_DEVICE_INDEX: u16 = 254;

/// Link group of the host ends of pod veths ("tm").
pub const POD_LINK_GROUP: u32 = 0x746d;
/// Link group of host ends whose pod is gone and which await removal ("td").
pub const DOOMED_LINK_GROUP: u32 = 0x7464;

/// Name of our nftables tables (families `inet` and `arp`).
pub const NFT_TABLE: &str = "tombolo";
/// Name of our nftables table for host ports (family `inet`).
pub const NFT_HOST_PORTS: &str = "tombolo-hostports";

/// IPv4 gateway of every pod; lives on no interface, a permanent neighbour entry answers for it.
pub const POD_GATEWAY4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
/// IPv6 gateway of every pod.
pub const POD_GATEWAY6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The packet mark of the NIC with this device index.
#[must_use]
pub const fn nic_mark(device_index: u16) -> u32 {
    MARK_MAGIC | ((device_index as u32 + 1) << 16)
}

/// The table of the NIC with this device index.
#[must_use]
pub const fn nic_table(device_index: u16) -> u32 {
    if device_index == 0 {
        MAIN_TABLE
    } else {
        NIC_TABLE_BASE + device_index as u32
    }
}

/// The table, inside the pod, of the attachment with this host end.
#[must_use]
pub const fn pod_own_table(host_ifindex: u32) -> u32 {
    POD_OWN_TABLE_BASE.saturating_add(host_ifindex)
}

/// Whether a table number of the node belongs to us.
#[must_use]
pub const fn is_our_table(table: u32) -> bool {
    table == POD_TABLE
        || (table > NIC_TABLE_BASE && table <= NIC_TABLE_BASE + MAX_DEVICE_INDEX as u32)
}

/// Alias (`ifalias`) of a NIC that we configured: how a person, and a later agent, sees whose it is.
#[must_use]
pub fn nic_alias(id: &NicId) -> String {
    format!("tombolo {id}")
}
