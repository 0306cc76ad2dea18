//! The fixed part of the table of host ports: whatever the number of ports, a new connection meets two lookups.
//!
//! | chain | hook, priority | does |
//! |---|---|---|
//! | `inward` | prerouting -99, after those of others | a new connection to an address of the node's own and a host port goes to the pod |
//! | `own` | output -99 | the same for the node's own processes |
//! | `back` | postrouting 99, before those of others | the source is translated where an answer would not come back by the node: a pod that reached itself, and what came from a loopback address |
//!
//! A port at one address goes before the same port at all of them. Everything else keeps its source: the pod sees its
//! client. Services of others (kube-proxy) come first, as they do beside the reference plugin.

use tombolo_core::datapath::conventions::NFT_HOST_PORTS;

use super::abi::{self, datatype};
use super::expr::{Ct, Expr, LOCAL, Meta, Op, REG, STATUS_DNAT, after};
use super::fixed::{Chain, Data, Rule, Set};

pub const PORTS4: &str = "ports4";
pub const PORTS6: &str = "ports6";
pub const PORTS4_AT: &str = "ports4at";
pub const PORTS6_AT: &str = "ports6at";
pub const SELF4: &str = "self4";
pub const SELF6: &str = "self6";

/// Bytes of an IPv4 address with a port, each filling whole registers.
const IP4_PORT: u32 = 8;
/// The same for IPv6.
const IP6_PORT: u32 = 20;

const POD4: Option<Data> = Some(Data {
    data_type: datatype::concat(datatype::IPV4, datatype::PORT),
    length: IP4_PORT,
    byte_order: 0,
});
const POD6: Option<Data> = Some(Data {
    data_type: datatype::concat(datatype::IPV6, datatype::PORT),
    length: IP6_PORT,
    byte_order: 0,
});

const fn map(name: &'static str, key_type: u32, key_len: u32, data: Option<Data>) -> Set {
    Set {
        table: NFT_HOST_PORTS,
        name,
        key_type,
        key_len,
        data,
        interval: false,
        byte_order: 0,
    }
}

/// All sets.
pub static SETS: [Set; 6] = [
    // (protocol, port) -> (pod's address, pod's port).
    map(
        PORTS4,
        datatype::concat(datatype::PROTOCOL, datatype::PORT),
        8,
        POD4,
    ),
    map(
        PORTS6,
        datatype::concat(datatype::PROTOCOL, datatype::PORT),
        8,
        POD6,
    ),
    // (address of the node, protocol, port) -> the same.
    map(
        PORTS4_AT,
        datatype::concat3(datatype::IPV4, datatype::PROTOCOL, datatype::PORT),
        12,
        POD4,
    ),
    map(
        PORTS6_AT,
        datatype::concat3(datatype::IPV6, datatype::PROTOCOL, datatype::PORT),
        24,
        POD6,
    ),
    // (pod's address, the same): each pod that has a host port.
    map(
        SELF4,
        datatype::concat(datatype::IPV4, datatype::IPV4),
        8,
        None,
    ),
    map(
        SELF6,
        datatype::concat(datatype::IPV6, datatype::IPV6),
        32,
        None,
    ),
];

/// All chains.
pub static CHAINS: [Chain; 3] = [
    Chain {
        family: abi::INET,
        table: NFT_HOST_PORTS,
        name: "inward",
        kind: "nat",
        hook: 0,
        priority: -99,
        rules: &INWARD,
    },
    Chain {
        family: abi::INET,
        table: NFT_HOST_PORTS,
        name: "own",
        kind: "nat",
        hook: 3,
        priority: -99,
        rules: &OWN,
    },
    Chain {
        family: abi::INET,
        table: NFT_HOST_PORTS,
        name: "back",
        kind: "nat",
        hook: 4,
        priority: 99,
        rules: &BACK,
    },
];

const IPV4: [Expr; 2] = [
    Expr::Meta(Meta::NfProto, REG),
    Expr::CmpByte(Op::Eq, abi::IPV4),
];
const IPV6: [Expr; 2] = [
    Expr::Meta(Meta::NfProto, REG),
    Expr::CmpByte(Op::Eq, abi::IPV6),
];

const fn network(offset: u32, length: u32, register: u32) -> Expr {
    Expr::Network {
        offset,
        length,
        register,
    }
}

const LOOPBACK6: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const NOT_OURS: Rule = Rule {
    comment: "not for this node",
    exprs: &[
        Expr::DestinationType,
        Expr::Cmp(Op::Ne, LOCAL),
        Expr::Accept,
    ],
};
const AT4: Rule = Rule {
    comment: "a port at one IPv4 address",
    exprs: &[
        IPV4[0],
        IPV4[1],
        network(16, 4, REG),
        Expr::Meta(Meta::L4Proto, after(4)),
        Expr::TransportPort(after(8)),
        Expr::Map(PORTS4_AT),
        Expr::Dnat(abi::IPV4, after(4)),
    ],
};
const ANY4: Rule = Rule {
    comment: "a port at all IPv4 addresses",
    exprs: &[
        IPV4[0],
        IPV4[1],
        Expr::Meta(Meta::L4Proto, REG),
        Expr::TransportPort(after(4)),
        Expr::Map(PORTS4),
        Expr::Dnat(abi::IPV4, after(4)),
    ],
};
const AT6: Rule = Rule {
    comment: "a port at one IPv6 address",
    exprs: &[
        IPV6[0],
        IPV6[1],
        network(24, 16, REG),
        Expr::Meta(Meta::L4Proto, after(16)),
        Expr::TransportPort(after(20)),
        Expr::Map(PORTS6_AT),
        Expr::Dnat(abi::IPV6, after(16)),
    ],
};
const ANY6: Rule = Rule {
    comment: "a port at all IPv6 addresses",
    exprs: &[
        IPV6[0],
        IPV6[1],
        Expr::Meta(Meta::L4Proto, REG),
        Expr::TransportPort(after(4)),
        Expr::Map(PORTS6),
        Expr::Dnat(abi::IPV6, after(16)),
    ],
};

static INWARD: [Rule; 6] = [
    NOT_OURS,
    // The kernel refuses such packets when it routes them, which would be too late: by then they would be the pod's.
    Rule {
        comment: "loopback is not reached from outside",
        exprs: &[
            IPV4[0],
            IPV4[1],
            network(16, 1, REG),
            Expr::CmpByte(Op::Eq, 127),
            Expr::Accept,
        ],
    },
    AT4,
    ANY4,
    AT6,
    ANY6,
];

static OWN: [Rule; 6] = [
    NOT_OURS,
    // The kernel takes no answer from a link for ::1. Refused at once is better than no answer.
    Rule {
        comment: "nothing comes back to IPv6's loopback",
        exprs: &[
            IPV6[0],
            IPV6[1],
            network(24, 16, REG),
            Expr::CmpBytes(Op::Eq, LOOPBACK6),
            Expr::Accept,
        ],
    },
    AT4,
    ANY4,
    AT6,
    ANY6,
];

static BACK: [Rule; 3] = [
    Rule {
        comment: "a pod that reached itself, IPv4",
        exprs: &[
            IPV4[0],
            IPV4[1],
            network(12, 4, REG),
            network(16, 4, after(4)),
            Expr::In(SELF4),
            Expr::Masquerade,
        ],
    },
    Rule {
        comment: "a pod that reached itself, IPv6",
        exprs: &[
            IPV6[0],
            IPV6[1],
            network(8, 16, REG),
            network(24, 16, after(16)),
            Expr::In(SELF6),
            Expr::Masquerade,
        ],
    },
    Rule {
        comment: "from IPv4's loopback",
        exprs: &[
            IPV4[0],
            IPV4[1],
            network(12, 1, REG),
            Expr::CmpByte(Op::Eq, 127),
            Expr::Ct(Ct::Status),
            Expr::And(STATUS_DNAT),
            Expr::Cmp(Op::Ne, 0),
            // To itself a process needs no translation.
            network(16, 1, REG),
            Expr::CmpByte(Op::Ne, 127),
            Expr::Masquerade,
        ],
    },
];
