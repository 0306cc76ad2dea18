//! Numbers and fixed headers of the kernel's netlink interfaces, as `include/uapi/linux` has them. Only what we use.

/// Flags of a message header.
pub mod nlm {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const ECHO: u16 = 0x8;
    pub const DUMP_INTR: u16 = 0x10;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
    /// On an error message: the request was not copied back.
    pub const CAPPED: u16 = 0x100;
    /// On an error message: attributes follow.
    pub const ACK_TLVS: u16 = 0x200;

    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const ERR_ATTR_MSG: u16 = 1;
    pub const HEADER: usize = 16;
}

/// rtnetlink message types.
pub mod rtm {
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const SETLINK: u16 = 19;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
    pub const GETNEIGH: u16 = 30;
    pub const NEWRULE: u16 = 32;
    pub const DELRULE: u16 = 33;
    pub const GETRULE: u16 = 34;
    pub const NEWNETCONF: u16 = 80;
}

/// Settings of which the kernel tells (`linux/netconf.h`).
pub mod netconf {
    /// `struct netconfmsg`, aligned.
    pub const HEADER: usize = 4;
    pub const IFINDEX: u16 = 1;
    pub const FORWARDING: u16 = 2;
    /// Index that stands for all links.
    pub const ALL: i32 = -1;
}

/// Links.
pub mod ifla {
    pub const HEADER: usize = 16;
    pub const ADDRESS: u16 = 1;
    pub const IFNAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const LINK: u16 = 5;
    pub const MASTER: u16 = 10;
    pub const OPERSTATE: u16 = 16;
    pub const LINKINFO: u16 = 18;
    pub const IFALIAS: u16 = 20;
    pub const AF_SPEC: u16 = 26;
    pub const GROUP: u16 = 27;
    pub const NET_NS_FD: u16 = 28;
    pub const EXT_MASK: u16 = 29;
    pub const NUM_TX_QUEUES: u16 = 31;
    pub const NUM_RX_QUEUES: u16 = 32;
    pub const LINK_NETNSID: u16 = 37;

    pub const INFO_KIND: u16 = 1;
    pub const INFO_DATA: u16 = 2;
    pub const VETH_INFO_PEER: u16 = 1;
    pub const INET6_ADDR_GEN_MODE: u16 = 8;
    pub const ADDR_GEN_MODE_NONE: u8 = 1;

    pub const UP: u32 = 0x1;
    pub const LOOPBACK: u32 = 0x8;
    pub const OPER_UP: u8 = 6;
    pub const OPER_UNKNOWN: u8 = 0;
    /// Leave the counters out of the answer.
    pub const SKIP_STATS: u32 = 8;
}

/// Addresses.
pub mod ifa {
    pub const HEADER: usize = 8;
    pub const ADDRESS: u16 = 1;
    pub const LOCAL: u16 = 2;
    pub const FLAGS: u16 = 8;
    pub const PROTO: u16 = 11;

    pub const F_NODAD: u32 = 0x02;
    pub const F_DADFAILED: u32 = 0x08;
    pub const F_TENTATIVE: u32 = 0x40;
    pub const F_NOPREFIXROUTE: u32 = 0x200;
}

/// Routes.
pub mod rta {
    pub const HEADER: usize = 12;
    pub const DST: u16 = 1;
    pub const SRC: u16 = 2;
    pub const OIF: u16 = 4;
    pub const GATEWAY: u16 = 5;
    pub const PRIORITY: u16 = 6;
    pub const PREFSRC: u16 = 7;
    pub const METRICS: u16 = 8;
    pub const MULTIPATH: u16 = 9;
    pub const TABLE: u16 = 15;
    pub const VIA: u16 = 18;
    pub const ENCAP: u16 = 22;
    pub const NH_ID: u16 = 30;

    pub const UNICAST: u8 = 1;
    pub const LOCAL: u8 = 2;
    pub const UNREACHABLE: u8 = 7;
    pub const SCOPE_UNIVERSE: u8 = 0;
    pub const SCOPE_LINK: u8 = 253;
    pub const SCOPE_HOST: u8 = 254;
    pub const F_ONLINK: u32 = 4;
    /// On a question: answer with the table that the route is in.
    pub const F_LOOKUP_TABLE: u32 = 0x1000;
    /// Routes of this table are the kernel's own.
    pub const TABLE_LOCAL: u32 = 255;
    /// A route cache entry or an exception, not a route.
    pub const F_CLONED: u32 = 0x200;
}

/// Policy rules.
pub mod fra {
    pub const HEADER: usize = 12;
    pub const DST: u16 = 1;
    pub const SRC: u16 = 2;
    pub const IIFNAME: u16 = 3;
    pub const OIFNAME: u16 = 17;
    pub const GOTO: u16 = 4;
    pub const PRIORITY: u16 = 6;
    pub const FWMARK: u16 = 10;
    pub const SUPPRESS_IFGROUP: u16 = 13;
    pub const SUPPRESS_PREFIXLEN: u16 = 14;
    pub const TABLE: u16 = 15;
    pub const FWMASK: u16 = 16;
    pub const PAD: u16 = 18;
    pub const L3MDEV: u16 = 19;
    pub const PROTOCOL: u16 = 21;

    /// Protocol number of what the kernel makes itself.
    pub const PROTOCOL_KERNEL: u8 = 2;
    pub const TO_TABLE: u8 = 1;
    pub const GOTO_RULE: u8 = 2;
    pub const NOP: u8 = 3;
    pub const BLACKHOLE: u8 = 6;
    pub const F_INVERT: u32 = 2;
}

/// Neighbours.
pub mod nda {
    pub const HEADER: usize = 12;
    pub const DST: u16 = 1;
    pub const LLADDR: u16 = 2;
    pub const PROTOCOL: u16 = 12;
    pub const PERMANENT: u16 = 0x80;
}

/// Sockets (`linux/inet_diag.h`, `linux/sock_diag.h`).
pub mod diag {
    pub const BY_FAMILY: u16 = 20;
    pub const DESTROY: u16 = 21;
    /// `struct inet_diag_req_v2`: family, protocol, two bytes, states, id.
    pub const REQUEST: usize = 8 + ID_LENGTH;
    /// Where `struct inet_diag_sockid` lies in an answer.
    pub const ID: usize = 4;
    pub const ID_LENGTH: usize = 48;
    /// Where the far address lies in an id: after two ports and the near address.
    pub const TO: usize = 20;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    /// Bits of all TCP states but CLOSE (7) and LISTEN (10). A connected UDP socket is ESTABLISHED (1).
    pub const CONNECTED: u32 = 0x1fff & !(1 << 7) & !(1 << 10);
}

/// Multicast groups of rtnetlink.
pub mod group {
    pub const LINK: u32 = 1;
    pub const NEIGH: u32 = 3;
    pub const IPV4_IFADDR: u32 = 5;
    pub const IPV4_ROUTE: u32 = 7;
    pub const IPV4_RULE: u32 = 8;
    pub const IPV6_IFADDR: u32 = 9;
    pub const IPV6_ROUTE: u32 = 11;
    pub const IPV6_RULE: u32 = 19;
    pub const IPV4_NETCONF: u32 = 24;
    pub const IPV6_NETCONF: u32 = 25;
    /// Multicast group of nf_tables.
    pub const NFTABLES: u32 = 7;
}

pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;
