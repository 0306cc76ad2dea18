//! Policy rules. Everything we add carries our protocol number.

use std::collections::BTreeSet;

use tombolo_core::datapath::Rule;
use tombolo_core::types::Family;

use crate::{Error, Request, Socket};

/// A rule that is not ours, or that carries our protocol but has a shape that we do not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRule {
    /// Family.
    pub family: Family,
    /// Priority.
    pub priority: u32,
    /// Protocol number (2: the kernel's own three).
    pub protocol: u8,
    /// Table it asks (0: none).
    pub table: u32,
    /// Kernel action (1 lookup, 2 goto, 3 nop, 6 blackhole, 7 unreachable, 8 prohibit).
    pub action: u8,
}

/// What a dump holds.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Ours.
    pub ours: BTreeSet<Rule>,
    /// Others', the kernel's three included.
    pub foreign: Vec<ForeignRule>,
}

/// Adds a rule; the kernel refuses a second one that is the same.
#[must_use]
pub fn add(_rule: &Rule) -> Request {
    todo!()
}

/// Removes exactly this rule, only if it carries our protocol number.
#[must_use]
pub fn del(_rule: &Rule) -> Request {
    todo!()
}

/// All rules of the socket's namespace, both families.
pub fn list(_socket: &mut Socket) -> Result<Rules, Error> {
    todo!()
}
