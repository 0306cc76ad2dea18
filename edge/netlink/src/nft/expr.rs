//! The expressions that our rules are made of.
//!
//! Registers: 1 for a single value; the parts of a concatenated key follow each other in the 4-byte registers that it
//! consists of, and those behind it ([`after`]).

use super::abi::{self, DATA_VALUE, DATA_VERDICT, LIST_ELEM, VERDICT_CODE};
use crate::message::Body;

/// The register of a single value, and of the first part of a key.
pub const REG: u32 = 1;
/// The register of the second part of a key.
pub const REG_SECOND: u32 = after(4);

/// The 4-byte register that follows so many bytes, counted from the beginning of [`REG`].
pub const fn after(bytes: u32) -> u32 {
    8 + bytes / 4
}

/// One expression.
#[derive(Clone, Copy, Debug)]
pub enum Expr {
    /// Loads a property of the packet.
    Meta(Meta, u32),
    /// Sets the packet mark to the register.
    SetMark,
    /// Loads bytes of the network header.
    Network {
        offset: u32,
        length: u32,
        register: u32,
    },
    /// Loads the first byte of the transport header.
    TransportType,
    /// Loads the destination's port.
    TransportPort(u32),
    /// Loads what the destination is to this node.
    DestinationType,
    /// Loads a property of the connection.
    Ct(Ct),
    /// Sets the connection mark to the register.
    SetCtMark,
    /// register &= mask.
    And(u32),
    /// register = register & the first ^ the second.
    AndXor(u32, u32),
    /// Goes on only if the register compares so with four bytes in host order.
    Cmp(Op, u32),
    /// Goes on only if the register compares so with one byte.
    CmpByte(Op, u8),
    /// Goes on only if the register compares so with these bytes.
    CmpBytes(Op, &'static [u8]),
    /// Goes on only if the key in the register is in the set.
    In(&'static str),
    /// Goes on only if the key in the register is not in the set.
    NotIn(&'static str),
    /// Replaces the key in the register with what the map has for it; goes on only if it has.
    Map(&'static str),
    /// Source address from the register, with a random port.
    Snat4,
    /// Destination of this family: the address from the register, the port from this one.
    Dnat(u8, u32),
    /// Source: an address of the node's.
    Masquerade,
    /// Counts.
    Counter,
    /// Ends this chain for this packet.
    Accept,
    /// Drops the packet.
    Drop,
}

/// Properties of a packet.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Meta {
    Mark = 3,
    Iif = 4,
    Oif = 5,
    NfProto = 15,
    L4Proto = 16,
    IifGroup = 21,
}

/// Properties of a connection.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Ct {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
}

/// The bit of a connection's first packet (until a reply was seen) in its state.
pub const STATE_NEW: u32 = 8;
/// The bit of a connection whose destination was translated in its status.
pub const STATUS_DNAT: u32 = 1 << 5;
/// What an address of this node is to it (`RTN_LOCAL`).
pub const LOCAL: u32 = 2;
/// The packet goes the way of the first one.
pub const ORIGINAL: u8 = 0;
/// The packet goes the other way.
pub const REPLY: u8 = 1;

/// Comparisons.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Op {
    Eq = 0,
    Ne = 1,
    Le = 3,
    Ge = 5,
}

impl Expr {
    /// The kernel's name of the expression.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta(..) | Self::SetMark => "meta",
            Self::Network { .. } | Self::TransportType | Self::TransportPort(_) => "payload",
            Self::DestinationType => "fib",
            Self::Ct(_) | Self::SetCtMark => "ct",
            Self::And(_) | Self::AndXor(..) => "bitwise",
            Self::Cmp(..) | Self::CmpByte(..) | Self::CmpBytes(..) => "cmp",
            Self::In(_) | Self::NotIn(_) | Self::Map(_) => "lookup",
            Self::Snat4 | Self::Dnat(..) => "nat",
            Self::Masquerade => "masq",
            Self::Counter => "counter",
            Self::Accept | Self::Drop => "immediate",
        }
    }

    /// Appends the expression to a list.
    pub fn put(self, list: &mut Body) {
        list.nest(LIST_ELEM, |elem| {
            elem.put_str(1, self.name())
                .nest(2, |data| self.put_data(data));
        });
    }

    fn put_data(self, data: &mut Body) {
        match self {
            Self::Meta(key, register) => {
                data.put_be32(2, key as u32).put_be32(1, register);
            }
            Self::SetMark => {
                data.put_be32(2, Meta::Mark as u32).put_be32(3, REG);
            }
            Self::Network {
                offset,
                length,
                register,
            } => {
                data.put_be32(1, register)
                    .put_be32(2, 1)
                    .put_be32(3, offset)
                    .put_be32(4, length);
            }
            Self::TransportType => {
                data.put_be32(1, REG)
                    .put_be32(2, 2)
                    .put_be32(3, 0)
                    .put_be32(4, 1);
            }
            Self::TransportPort(register) => {
                data.put_be32(1, register)
                    .put_be32(2, 2)
                    .put_be32(3, 2)
                    .put_be32(4, 2);
            }
            Self::DestinationType => {
                data.put_be32(1, REG)
                    .put_be32(2, FIB_ADDRESS_TYPE)
                    .put_be32(3, FIB_DESTINATION);
            }
            Self::Ct(key) => {
                data.put_be32(2, key as u32).put_be32(1, REG);
            }
            Self::SetCtMark => {
                data.put_be32(2, Ct::Mark as u32).put_be32(4, REG);
            }
            Self::And(mask) => put_bitwise(data, mask, 0),
            Self::AndXor(mask, xor) => put_bitwise(data, mask, xor),
            Self::Cmp(op, value) => {
                data.put_be32(1, REG).put_be32(2, op as u32);
                put_value(data, 3, &value.to_ne_bytes());
            }
            Self::CmpByte(op, value) => {
                data.put_be32(1, REG).put_be32(2, op as u32);
                put_value(data, 3, &[value]);
            }
            Self::CmpBytes(op, value) => {
                data.put_be32(1, REG).put_be32(2, op as u32);
                put_value(data, 3, value);
            }
            Self::In(set) => {
                data.put_be32(2, REG).put_str(1, set);
            }
            Self::NotIn(set) => {
                data.put_be32(2, REG).put_str(1, set).put_be32(5, 1);
            }
            Self::Map(set) => {
                data.put_be32(2, REG).put_be32(3, REG).put_str(1, set);
            }
            Self::Snat4 => {
                data.put_be32(1, 0)
                    .put_be32(2, abi::IPV4.into())
                    .put_be32(3, REG)
                    .put_be32(7, RANDOM_FULLY);
            }
            Self::Dnat(family, port) => {
                // One address and one port: least and most are the same.
                data.put_be32(1, 1)
                    .put_be32(2, family.into())
                    .put_be32(3, REG)
                    .put_be32(4, REG)
                    .put_be32(5, port)
                    .put_be32(6, port)
                    .put_be32(7, ADDRESS_AND_PORT);
            }
            Self::Counter | Self::Masquerade => {}
            Self::Accept => put_verdict(data, 1),
            Self::Drop => put_verdict(data, 0),
        }
    }
}

/// `NFT_FIB_RESULT_ADDRTYPE` and `NFTA_FIB_F_DADDR`.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
/// `NF_NAT_RANGE_MAP_IPS` and `NF_NAT_RANGE_PROTO_SPECIFIED`.
const ADDRESS_AND_PORT: u32 = 3;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const RANDOM_FULLY: u32 = 16;

/// A data attribute with bytes.
pub fn put_value(body: &mut Body, kind: u16, value: &[u8]) {
    body.nest(kind, |data| {
        data.put(DATA_VALUE, value);
    });
}

fn put_bitwise(data: &mut Body, mask: u32, xor: u32) {
    data.put_be32(1, REG).put_be32(2, REG).put_be32(3, 4);
    put_value(data, 4, &mask.to_ne_bytes());
    put_value(data, 5, &xor.to_ne_bytes());
}

fn put_verdict(data: &mut Body, code: u32) {
    data.put_be32(1, 0).nest(2, |value| {
        value.nest(DATA_VERDICT, |verdict| {
            verdict.put_be32(VERDICT_CODE, code);
        });
    });
}
