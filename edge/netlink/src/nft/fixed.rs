//! The fixed part of our tables: chains, rules, sets. Only elements vary (`elements`). Host ports have a table of their own
//! ([`super::host_ports`]).
//!
//! | chain | hook, priority | does |
//! |---|---|---|
//! | `inet guard` | prerouting -310, before connection tracking | a pod's packet gets its NIC's mark by (host end, source); any other source, all neighbour and multicast-listener discovery, and what is meant for the node's loopback is dropped |
//! | `inet classify` | prerouting -190, right after connection tracking | what a NIC delivers gets that NIC's mark, kept on the connection; replies of pods, and of other nodes to what was for a Service, leave by it |
//! | `inet egress` | prerouting -90, after every translation of destinations | pods' IPv4 that is still for outside the VPC gets the primary's mark: before, it may be for a Service |
//! | `inet fence` | forward 0 | a pod's packet that is about to leave by a NIC whose mark it does not have is dropped: whatever rules and routes say, or if none are left |
//! | `inet translate` | postrouting 100 (srcnat) | pods' IPv4 that leaves by the primary NIC for outside the VPC gets its address |
//! | `arp input` | input 0 | pods need no ARP: dropped |
//!
//! The connection mark is written only while it has no mark of ours: bits that other programs add later stay.

use std::sync::LazyLock;

use tombolo_core::datapath::conventions::{
    MARK_MAGIC, MARK_MAGIC_MASK, MARK_MASK, NFT_HOST_PORTS, NFT_TABLE, POD_LINK_GROUP, nic_mark,
};

use super::abi::{self, datatype};
use super::expr::{Ct, Expr, Meta, ORIGINAL, Op, REG, REG_SECOND, REPLY, STATE_NEW};
use super::host_ports;
use crate::Request;
use crate::abi::nlm;
use crate::message::Body;

/// A base chain; its policy is accept.
#[derive(Debug)]
pub struct Chain {
    pub family: u8,
    pub table: &'static str,
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
    pub rules: &'static [Rule],
}

/// A rule; the comment is its identity.
#[derive(Debug)]
pub struct Rule {
    pub comment: &'static str,
    pub exprs: &'static [Expr],
}

/// A named set or map.
#[derive(Debug)]
pub struct Set {
    pub table: &'static str,
    pub name: &'static str,
    pub key_type: u32,
    pub key_len: u32,
    pub data: Option<Data>,
    pub interval: bool,
    /// The nft tool's number for the order of the key's bytes: 0 mixed, 1 host, 2 network.
    pub byte_order: u8,
}

/// What a map leads to.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    pub data_type: u32,
    /// In bytes.
    pub length: u32,
    /// As of the key.
    pub byte_order: u8,
}

/// Family and name of each table.
pub const TABLES: [(u8, &str); 3] = [
    (abi::INET, NFT_TABLE),
    (abi::ARP, NFT_TABLE),
    (abi::INET, NFT_HOST_PORTS),
];

/// The sets of all tables.
pub fn sets() -> impl Iterator<Item = &'static Set> {
    SETS.iter().chain(&host_ports::SETS)
}

/// The chains of all tables.
pub fn chains() -> impl Iterator<Item = &'static Chain> {
    CHAINS.iter().chain(&host_ports::CHAINS)
}

/// The table that holds a set.
pub fn table_of(set: &str) -> &'static str {
    let holds = host_ports::SETS.iter().any(|each| each.name == set);
    if holds { NFT_HOST_PORTS } else { NFT_TABLE }
}

impl Set {
    pub const fn flags(&self) -> u32 {
        (if self.data.is_some() {
            abi::set::F_MAP
        } else {
            0
        }) | (if self.interval {
            abi::set::F_INTERVAL
        } else {
            0
        })
    }
}

pub const PODS4: &str = "pods4";
pub const PODS6: &str = "pods6";
pub const NICS: &str = "nics";
pub const OUTS: &str = "outs";
pub const WAYS: &str = "ways";
pub const EGRESS4: &str = "egress4";
pub const SNAT4: &str = "snat4";
pub const OWN4: &str = "own4";
pub const VPC4: &str = "vpc4";

const MARK: Option<Data> = Some(Data {
    data_type: datatype::MARK,
    length: 4,
    byte_order: 1,
});
const ADDRESS4: Option<Data> = Some(Data {
    data_type: datatype::IPV4,
    length: 4,
    byte_order: 2,
});
const IF_IP4: u32 = datatype::concat(datatype::IFINDEX, datatype::IPV4);
const MARK_IF: u32 = datatype::concat(datatype::MARK, datatype::IFINDEX);
const IF_IP6: u32 = datatype::concat(datatype::IFINDEX, datatype::IPV6);

/// The sets of `inet tombolo`.
static SETS: [Set; 9] = [
    // (host end, pod's address) -> mark of its NIC.
    Set {
        table: NFT_TABLE,
        name: PODS4,
        key_type: IF_IP4,
        key_len: 8,
        data: MARK,
        interval: false,
        byte_order: 0,
    },
    Set {
        table: NFT_TABLE,
        name: PODS6,
        key_type: IF_IP6,
        key_len: 20,
        data: MARK,
        interval: false,
        byte_order: 0,
    },
    // NIC -> its mark.
    Set {
        table: NFT_TABLE,
        name: NICS,
        key_type: datatype::IFINDEX,
        key_len: 4,
        data: MARK,
        interval: false,
        byte_order: 1,
    },
    // NICs.
    Set {
        table: NFT_TABLE,
        name: OUTS,
        key_type: datatype::IFINDEX,
        key_len: 4,
        data: None,
        interval: false,
        byte_order: 1,
    },
    // (mark, the NIC that has it).
    Set {
        table: NFT_TABLE,
        name: WAYS,
        key_type: MARK_IF,
        key_len: 8,
        data: None,
        interval: false,
        byte_order: 0,
    },
    // Group of pod links; empty without translation.
    Set {
        table: NFT_TABLE,
        name: EGRESS4,
        key_type: datatype::DEVGROUP,
        key_len: 4,
        data: None,
        interval: false,
        byte_order: 1,
    },
    // Primary NIC -> its address; empty without translation.
    Set {
        table: NFT_TABLE,
        name: SNAT4,
        key_type: datatype::IFINDEX,
        key_len: 4,
        data: ADDRESS4,
        interval: false,
        byte_order: 1,
    },
    // (primary NIC, its address): what has the address already.
    Set {
        table: NFT_TABLE,
        name: OWN4,
        key_type: IF_IP4,
        key_len: 8,
        data: None,
        interval: false,
        byte_order: 0,
    },
    // Never translated.
    Set {
        table: NFT_TABLE,
        name: VPC4,
        key_type: datatype::IPV4,
        key_len: 4,
        data: None,
        interval: true,
        byte_order: 2,
    },
];

const IS_POD_LINK: [Expr; 2] = [
    Expr::Meta(Meta::IifGroup, REG),
    Expr::Cmp(Op::Eq, POD_LINK_GROUP),
];
const IPV4: [Expr; 2] = [
    Expr::Meta(Meta::NfProto, REG),
    Expr::CmpByte(Op::Eq, abi::IPV4),
];
const IPV6: [Expr; 2] = [
    Expr::Meta(Meta::NfProto, REG),
    Expr::CmpByte(Op::Eq, abi::IPV6),
];
const ICMPV6: [Expr; 3] = [
    Expr::Meta(Meta::L4Proto, REG),
    Expr::CmpByte(Op::Eq, 58),
    Expr::TransportType,
];
const DST4: Expr = Expr::Network {
    offset: 16,
    length: 4,
    register: REG,
};
const DROP: [Expr; 2] = [Expr::Counter, Expr::Drop];

/// The chains of `inet tombolo` and `arp tombolo`.
static CHAINS: [Chain; 6] = [
    Chain {
        family: abi::INET,
        table: NFT_TABLE,
        name: "guard",
        kind: "filter",
        hook: 0,
        priority: -310,
        rules: &GUARD,
    },
    Chain {
        family: abi::INET,
        table: NFT_TABLE,
        name: "classify",
        kind: "filter",
        hook: 0,
        priority: -190,
        rules: &CLASSIFY,
    },
    Chain {
        family: abi::INET,
        table: NFT_TABLE,
        name: "egress",
        kind: "filter",
        hook: 0,
        priority: -90,
        rules: &EGRESS,
    },
    Chain {
        family: abi::INET,
        table: NFT_TABLE,
        name: "fence",
        kind: "filter",
        hook: 2,
        priority: 0,
        rules: &FENCE,
    },
    Chain {
        family: abi::INET,
        table: NFT_TABLE,
        name: "translate",
        kind: "nat",
        hook: 4,
        priority: 100,
        rules: &TRANSLATE,
    },
    Chain {
        family: abi::ARP,
        table: NFT_TABLE,
        name: "input",
        kind: "filter",
        hook: 0,
        priority: 0,
        rules: &ARP_INPUT,
    },
];

static GUARD: [Rule; 7] = [
    Rule {
        comment: "not from a pod",
        exprs: &[
            Expr::Meta(Meta::IifGroup, REG),
            Expr::Cmp(Op::Ne, POD_LINK_GROUP),
            Expr::Accept,
        ],
    },
    // Types 130 to 132 and 143 are multicast listener discovery: expected, useless here, and no attempt to spoof.
    Rule {
        comment: "neighbour discovery",
        exprs: &[
            IPV6[0],
            IPV6[1],
            ICMPV6[0],
            ICMPV6[1],
            ICMPV6[2],
            Expr::CmpByte(Op::Ge, 130),
            Expr::CmpByte(Op::Le, 137),
            DROP[0],
            DROP[1],
        ],
    },
    Rule {
        comment: "multicast listeners",
        exprs: &[
            IPV6[0],
            IPV6[1],
            ICMPV6[0],
            ICMPV6[1],
            ICMPV6[2],
            Expr::CmpByte(Op::Eq, 143),
            DROP[0],
            DROP[1],
        ],
    },
    // The kernel refuses it as well, unless somebody sets `route_localnet`; host ports do.
    Rule {
        comment: "for the node's loopback",
        exprs: &[
            IPV4[0],
            IPV4[1],
            Expr::Network {
                offset: 16,
                length: 1,
                register: REG,
            },
            Expr::CmpByte(Op::Eq, 127),
            DROP[0],
            DROP[1],
        ],
    },
    Rule {
        comment: "pod's own IPv4 source",
        exprs: &[
            IPV4[0],
            IPV4[1],
            Expr::Meta(Meta::Iif, REG),
            Expr::Network {
                offset: 12,
                length: 4,
                register: REG_SECOND,
            },
            Expr::Map(PODS4),
            Expr::SetMark,
            Expr::Accept,
        ],
    },
    Rule {
        comment: "pod's own IPv6 source",
        exprs: &[
            IPV6[0],
            IPV6[1],
            Expr::Meta(Meta::Iif, REG),
            Expr::Network {
                offset: 8,
                length: 16,
                register: REG_SECOND,
            },
            Expr::Map(PODS6),
            Expr::SetMark,
            Expr::Accept,
        ],
    },
    Rule {
        comment: "spoofed source",
        exprs: &DROP,
    },
];

static CLASSIFY: [Rule; 3] = [
    Rule {
        comment: "from a NIC",
        exprs: &[
            Expr::Meta(Meta::Iif, REG),
            Expr::Map(NICS),
            Expr::SetMark,
            Expr::Ct(Ct::State),
            Expr::And(STATE_NEW),
            Expr::Cmp(Op::Ne, 0),
            Expr::Ct(Ct::Mark),
            Expr::And(MARK_MAGIC_MASK),
            Expr::Cmp(Op::Ne, MARK_MAGIC),
            Expr::Meta(Meta::Mark, REG),
            Expr::SetCtMark,
        ],
    },
    Rule {
        comment: "reply leaves by the NIC of the request",
        exprs: &[
            IS_POD_LINK[0],
            IS_POD_LINK[1],
            Expr::Ct(Ct::Direction),
            Expr::CmpByte(Op::Eq, REPLY),
            Expr::Ct(Ct::Mark),
            Expr::And(MARK_MAGIC_MASK),
            Expr::Cmp(Op::Eq, MARK_MAGIC),
            Expr::Ct(Ct::Mark),
            Expr::And(MARK_MASK),
            Expr::SetMark,
            Expr::Accept,
        ],
    },
    // The request was for a Service of others, and its backend is on another node: it was sent on by the primary NIC.
    Rule {
        comment: "reply from elsewhere leaves by the NIC of the request",
        exprs: &[
            Expr::Meta(Meta::Iif, REG),
            Expr::In(OUTS),
            Expr::Ct(Ct::Direction),
            Expr::CmpByte(Op::Eq, REPLY),
            Expr::Ct(Ct::Mark),
            Expr::And(MARK_MAGIC_MASK),
            Expr::Cmp(Op::Eq, MARK_MAGIC),
            Expr::Ct(Ct::Mark),
            Expr::And(MARK_MASK),
            Expr::SetMark,
        ],
    },
];

// By now others may have marked the packet (kube-proxy does): their bits stay.
static EGRESS: [Rule; 1] = [Rule {
    comment: "to outside the VPC by the primary NIC",
    exprs: &[
        Expr::Meta(Meta::IifGroup, REG),
        Expr::In(EGRESS4),
        Expr::Ct(Ct::Direction),
        Expr::CmpByte(Op::Eq, ORIGINAL),
        IPV4[0],
        IPV4[1],
        DST4,
        Expr::NotIn(VPC4),
        Expr::Meta(Meta::Mark, REG),
        Expr::AndXor(!MARK_MASK, nic_mark(0)),
        Expr::SetMark,
    ],
}];

static FENCE: [Rule; 1] = [Rule {
    comment: "by a NIC that is not the packet's",
    exprs: &[
        IS_POD_LINK[0],
        IS_POD_LINK[1],
        Expr::Meta(Meta::Oif, REG),
        Expr::In(OUTS),
        Expr::Meta(Meta::Mark, REG),
        Expr::And(MARK_MASK),
        Expr::Meta(Meta::Oif, REG_SECOND),
        Expr::NotIn(WAYS),
        DROP[0],
        DROP[1],
    ],
}];

static TRANSLATE: [Rule; 1] = [Rule {
    comment: "to outside the VPC with the primary address",
    exprs: &[
        Expr::Meta(Meta::Mark, REG),
        Expr::And(MARK_MAGIC_MASK),
        Expr::Cmp(Op::Eq, MARK_MAGIC),
        IPV4[0],
        IPV4[1],
        Expr::Ct(Ct::Direction),
        Expr::CmpByte(Op::Eq, ORIGINAL),
        Expr::Meta(Meta::Oif, REG),
        Expr::Network {
            offset: 12,
            length: 4,
            register: REG_SECOND,
        },
        Expr::NotIn(OWN4),
        DST4,
        Expr::NotIn(VPC4),
        Expr::Meta(Meta::Oif, REG),
        Expr::Map(SNAT4),
        Expr::Snat4,
    ],
}];

static ARP_INPUT: [Rule; 1] = [Rule {
    comment: "pods need no ARP",
    exprs: &[IS_POD_LINK[0], IS_POD_LINK[1], DROP[0], DROP[1]],
}];

/// What the tables' comment says: it follows from every byte of the fixed part, so that no change of it can be forgotten.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for request in sets().map(new_set).chain(chains().flat_map(new_chain)) {
        request.body.finish(0, 0, &mut bytes);
    }
    // FNV-1a.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("tombolo data path {hash:016x}")
});

/// The messages that make the whole fixed part, empty sets included, in place of what there was.
pub fn replace() -> Vec<Request> {
    let mut requests = Vec::new();
    for (family, table) in TABLES {
        // Deleting needs something to delete.
        requests.extend([
            new_table(family, table, ""),
            del_table(family, table),
            new_table(family, table, &VERSION),
        ]);
    }
    requests.extend(sets().map(new_set));
    requests.extend(chains().flat_map(new_chain));
    requests
}

/// `struct nfgenmsg`.
pub const fn header(family: u8) -> [u8; abi::HEADER] {
    [family, 0, 0, 0]
}

fn new_table(family: u8, table: &str, comment: &str) -> Request {
    let flags = nlm::CREATE;
    let mut request = Request::new(
        "add nft table",
        table,
        abi::NEW_TABLE,
        flags,
        &header(family),
    );
    request
        .body
        .put_str(abi::table::NAME, table)
        .put_be32(abi::table::FLAGS, 0);
    if !comment.is_empty() {
        request
            .body
            .put(abi::table::USERDATA, &comment_data(comment));
    }
    request
}

pub fn del_table(family: u8, table: &str) -> Request {
    let mut request = Request::new(
        "delete nft table",
        table,
        abi::DEL_TABLE,
        0,
        &header(family),
    );
    request.body.put_str(abi::table::NAME, table);
    request
}

fn new_set(set: &Set) -> Request {
    let id = sets()
        .position(|other| other.name == set.name)
        .unwrap_or_default()
        + 1;
    let mut request = Request::new(
        "add nft set",
        set.name,
        abi::NEW_SET,
        nlm::CREATE,
        &header(abi::INET),
    );
    request
        .body
        .put_str(abi::set::TABLE, set.table)
        .put_str(abi::set::NAME, set.name)
        .put_be32(abi::set::FLAGS, set.flags())
        .put_be32(abi::set::KEY_TYPE, set.key_type)
        .put_be32(abi::set::KEY_LEN, set.key_len);
    // For the nft tool: the byte orders of key (0) and data (1), each a type byte, a length byte and a number.
    let mut userdata = vec![0, 4, set.byte_order, 0, 0, 0];
    if let Some(data) = set.data {
        request
            .body
            .put_be32(abi::set::DATA_TYPE, data.data_type)
            .put_be32(abi::set::DATA_LEN, data.length);
        userdata.extend([1, 4, data.byte_order, 0, 0, 0]);
    }
    request
        .body
        .put_be32(abi::set::ID, u32::try_from(id).unwrap_or_default())
        .put(abi::set::USERDATA, &userdata);
    request
}

fn new_chain(chain: &'static Chain) -> impl Iterator<Item = Request> {
    let mut request = Request::new(
        "add nft chain",
        chain.name,
        abi::NEW_CHAIN,
        nlm::CREATE,
        &header(chain.family),
    );
    request
        .body
        .put_str(abi::chain::TABLE, chain.table)
        .put_str(abi::chain::NAME, chain.name)
        .put_str(abi::chain::TYPE, chain.kind)
        .put_be32(abi::chain::POLICY, 1)
        .nest(abi::chain::HOOK, |hook| {
            hook.put_be32(abi::chain::HOOK_NUMBER, chain.hook)
                .put_be32(abi::chain::HOOK_PRIORITY, chain.priority.cast_unsigned());
        });
    std::iter::once(request).chain(chain.rules.iter().map(move |rule| new_rule(chain, rule)))
}

fn new_rule(chain: &Chain, rule: &Rule) -> Request {
    let subject = format!("{}: {}", chain.name, rule.comment);
    let flags = nlm::CREATE | nlm::APPEND;
    let mut request = Request::new(
        "add nft rule",
        subject,
        abi::NEW_RULE,
        flags,
        &header(chain.family),
    );
    let body: &mut Body = &mut request.body;
    body.put_str(abi::rule::TABLE, chain.table)
        .put_str(abi::rule::CHAIN, chain.name);
    body.nest(abi::rule::EXPRESSIONS, |list| {
        rule.exprs.iter().for_each(|expr| expr.put(list))
    });
    body.put(abi::rule::USERDATA, &comment_data(rule.comment));
    request
}

/// A comment as the nft tool stores it.
fn comment_data(comment: &str) -> Vec<u8> {
    let mut data = vec![
        abi::UDATA_COMMENT,
        u8::try_from(comment.len() + 1).unwrap_or(u8::MAX),
    ];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    data
}

/// The comment in user data.
pub fn comment_of(userdata: &[u8]) -> Option<&str> {
    let [abi::UDATA_COMMENT, length, text @ ..] = userdata else {
        return None;
    };
    let text = text.get(..usize::from(*length).checked_sub(1)?)?;
    std::str::from_utf8(text).ok()
}
