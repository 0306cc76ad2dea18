//! Numbers of nf_tables, as `include/uapi/linux/netfilter/nf_tables.h` has them, and of the nft tool. Only what we use.

/// Netfilter subsystems, in the high byte of a message type.
pub const SUBSYS: u16 = 10 << 8;
pub const BATCH_BEGIN: u16 = 16;
pub const BATCH_END: u16 = 17;

pub const NEW_TABLE: u16 = SUBSYS;
pub const GET_TABLE: u16 = SUBSYS + 1;
pub const DEL_TABLE: u16 = SUBSYS + 2;
pub const NEW_CHAIN: u16 = SUBSYS + 3;
pub const GET_CHAIN: u16 = SUBSYS + 4;
pub const DEL_CHAIN: u16 = SUBSYS + 5;
pub const NEW_RULE: u16 = SUBSYS + 6;
pub const GET_RULE: u16 = SUBSYS + 7;
pub const DEL_RULE: u16 = SUBSYS + 8;
pub const NEW_SET: u16 = SUBSYS + 9;
pub const GET_SET: u16 = SUBSYS + 10;
pub const DEL_SET: u16 = SUBSYS + 11;
pub const NEW_ELEMENT: u16 = SUBSYS + 12;
pub const GET_ELEMENT: u16 = SUBSYS + 13;
pub const DEL_ELEMENT: u16 = SUBSYS + 14;

/// `struct nfgenmsg`.
pub const HEADER: usize = 4;
pub const INET: u8 = 1;
pub const ARP: u8 = 3;
pub const ANY: u8 = 0;
pub const IPV4: u8 = 2;
pub const IPV6: u8 = 10;

pub mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const USERDATA: u16 = 6;
}

pub mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
    pub const HOOK_NUMBER: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
    pub const FORWARD: u32 = 2;
    pub const DROP: u32 = 0;
}

pub mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const EXPRESSIONS: u16 = 4;
    pub const USERDATA: u16 = 7;
}

pub mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LEN: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LEN: u16 = 7;
    pub const ID: u16 = 10;
    pub const USERDATA: u16 = 13;
    pub const F_INTERVAL: u32 = 4;
    pub const F_MAP: u32 = 8;
}

pub mod element {
    pub const TABLE: u16 = 1;
    pub const SET: u16 = 2;
    pub const LIST: u16 = 3;
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const F_INTERVAL_END: u32 = 1;
}

/// A member of any list.
pub const LIST_ELEM: u16 = 1;
/// Bytes in a data attribute.
pub const DATA_VALUE: u16 = 1;
/// A verdict in a data attribute.
pub const DATA_VERDICT: u16 = 2;
pub const VERDICT_CODE: u16 = 1;
/// A comment in user data (a type byte, a length byte, text with its zero byte).
pub const UDATA_COMMENT: u8 = 0;

/// The nft tool's numbers of data types: what makes `nft list` print an element as what it is.
pub mod datatype {
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const MARK: u32 = 19;
    pub const IFINDEX: u32 = 20;
    pub const DEVGROUP: u32 = 35;
    pub const PROTOCOL: u32 = 12;
    pub const PORT: u32 = 13;

    /// A concatenation.
    pub const fn concat(first: u32, second: u32) -> u32 {
        first << 6 | second
    }

    /// A concatenation of three.
    pub const fn concat3(first: u32, second: u32, third: u32) -> u32 {
        concat(concat(first, second), third)
    }
}
