//! Policy rules. Everything we add carries our protocol number.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tombolo_core::datapath::conventions::PROTOCOL;
use tombolo_core::datapath::system_rules::{SystemRule, is_system_table};
use tombolo_core::datapath::{Rule, RuleAction, Selector};
use tombolo_core::types::Family;

use crate::abi::{fra, nlm, rtm};
use crate::addr::absent_family_is_empty;
use crate::message::{Reply, family_number, family_of, ip_of, text, u32_at, u32_of};
use crate::{Error, Request, Socket};

/// A rule that is not ours, or that carries our protocol but has a shape that we do not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRule {
    /// Family.
    pub family: Family,
    /// Priority.
    pub priority: u32,
    /// Destinations that it matches; `None`: all.
    pub to: Option<IpNet>,
    /// Protocol number (2: the kernel's own three).
    pub protocol: u8,
    /// Table it asks (0: none).
    pub table: u32,
    /// Kernel action (1 lookup, 2 goto, 3 nop, 6 blackhole, 7 unreachable, 8 prohibit).
    pub action: u8,
    /// Whether it matches every packet and takes what it finds.
    pub for_all: bool,
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
pub fn add(rule: &Rule) -> Request {
    encode("add rule", rule, rtm::NEWRULE, nlm::CREATE | nlm::EXCL)
}

/// Removes this rule, only if it carries our protocol number. The kernel compares what is given: with
/// [`Selector::All`] it takes the first of ours with this priority and action, whatever that one selects.
#[must_use]
pub fn del(rule: &Rule) -> Request {
    encode("delete rule", rule, rtm::DELRULE, 0)
}

/// Removes a rule that carries our protocol number and a destination, which no rule that we write has: a leftover of
/// another build. `None` for all others.
#[must_use]
pub fn del_leftover(rule: &ForeignRule) -> Option<Request> {
    let to = rule.to.filter(|_| rule.protocol == PROTOCOL)?;
    let mut header = [0; fra::HEADER];
    header[0] = family_number(rule.family);
    header[1] = to.prefix_len();
    header[4] = u8::try_from(rule.table).unwrap_or(0);
    header[7] = rule.action;
    let subject = format!("{} priority {} to {to}", rule.family, rule.priority);
    let mut request = Request::new("delete rule", subject, rtm::DELRULE, 0, &header);
    let body = &mut request.body;
    body.put_u32(fra::PRIORITY, rule.priority)
        .put_u8(fra::PROTOCOL, PROTOCOL)
        .put_ip(fra::DST, to.network());
    if rule.table != 0 {
        body.put_u32(fra::TABLE, rule.table);
    }
    Some(request.tolerate(rustix::io::Errno::NOENT))
}

/// Puts one of the kernel's own rules back, as the kernel's.
#[must_use]
pub fn restore(rule: &SystemRule) -> Request {
    let SystemRule {
        family,
        priority,
        table,
    } = *rule;
    let mut header = [0; fra::HEADER];
    header[0] = family_number(family);
    header[4] = u8::try_from(table).unwrap_or(0);
    header[7] = fra::TO_TABLE;
    let subject = format!("{family} priority {priority} of the kernel");
    let flags = nlm::CREATE | nlm::EXCL;
    let mut request = Request::new("restore rule", subject, rtm::NEWRULE, flags, &header);
    request
        .body
        .put_u32(fra::PRIORITY, priority)
        .put_u8(fra::PROTOCOL, fra::PROTOCOL_KERNEL)
        .put_u32(fra::TABLE, table);
    request.tolerate(rustix::io::Errno::EXIST)
}

/// The kernel's own tables that one of these rules asks for every packet.
#[must_use]
pub fn system_tables_asked(rules: &[ForeignRule]) -> BTreeSet<(Family, u32)> {
    let asking = rules
        .iter()
        .filter(|rule| rule.for_all && rule.action == fra::TO_TABLE && is_system_table(rule.table));
    asking.map(|rule| (rule.family, rule.table)).collect()
}

fn encode(operation: &'static str, rule: &Rule, kind: u16, flags: u16) -> Request {
    let (action, table) = match rule.action {
        RuleAction::Lookup(table) => (fra::TO_TABLE, table),
        RuleAction::Goto(_) => (fra::GOTO_RULE, 0),
        RuleAction::Blackhole => (fra::BLACKHOLE, 0),
        RuleAction::Nop => (fra::NOP, 0),
    };
    let mut header = [0; fra::HEADER];
    header[0] = family_number(rule.family);
    header[4] = u8::try_from(table).unwrap_or(0);
    header[7] = action;
    if let Selector::From(net) = &rule.selector {
        header[2] = net.prefix_len();
    }
    let subject = format!("{} priority {}", rule.family, rule.priority);
    let mut request = Request::new(operation, subject, kind, flags, &header);
    let body = &mut request.body;
    body.put_u32(fra::PRIORITY, rule.priority)
        .put_u8(fra::PROTOCOL, PROTOCOL);
    if table != 0 {
        body.put_u32(fra::TABLE, table);
    }
    if let RuleAction::Goto(target) = rule.action {
        body.put_u32(fra::GOTO, target);
    }
    match &rule.selector {
        Selector::All => {}
        Selector::Iif(name) => {
            body.put_str(fra::IIFNAME, name);
        }
        Selector::Oif(name) => {
            body.put_str(fra::OIFNAME, name);
        }
        Selector::From(net) if net.prefix_len() > 0 => {
            body.put_ip(fra::SRC, net.network());
        }
        Selector::From(_) => {}
        Selector::Mark(mark, mask) => {
            body.put_u32(fra::FWMARK, *mark).put_u32(fra::FWMASK, *mask);
        }
        Selector::IifMark(name, mark, mask) => {
            body.put_str(fra::IIFNAME, name)
                .put_u32(fra::FWMARK, *mark)
                .put_u32(fra::FWMASK, *mask);
        }
    }
    request
}

/// All rules of the socket's namespace, both families.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`]; [`Error::Malformed`] where the list never held still.
pub fn list(socket: &mut Socket) -> Result<Rules, Error> {
    let mut rules = Rules::default();
    for family in Family::ALL {
        let mut header = [0; fra::HEADER];
        header[0] = family_number(family);
        let request = Request::new("list", format!("{family} rules"), rtm::GETRULE, 0, &header);
        for decoded in absent_family_is_empty(socket.dump(&request, decode))? {
            match decoded {
                // A second one that is the same cannot be told from the first.
                Ok(rule) => {
                    rules.ours.insert(rule);
                }
                Err(foreign) => rules.foreign.push(foreign),
            }
        }
    }
    Ok(rules)
}

/// Ours, or another's.
pub(crate) fn decode(reply: &Reply<'_>) -> Option<Result<Rule, ForeignRule>> {
    let [family, dst_len, src_len, tos, low_table, _, _, action, ..] = *reply.payload else {
        return None;
    };
    let family = family_of(family)?;
    let flags = u32_at(reply.payload, 8)?;
    let (mut table, mut priority, mut protocol) = (u32::from(low_table), 0, 0);
    let (mut dst, mut src, mut iif, mut oif) = (None, None, None, None);
    let (mut target, mut mark, mut mask) = (None, None, None);
    let mut plain = dst_len == 0 && tos == 0 && flags & fra::F_INVERT == 0;
    for (attribute, value) in reply.attributes(fra::HEADER) {
        match attribute {
            fra::TABLE => table = u32_of(value)?,
            fra::PRIORITY => priority = u32_of(value)?,
            fra::PROTOCOL => protocol = *value.first()?,
            fra::DST => dst = ip_of(value),
            fra::SRC => src = ip_of(value),
            fra::IIFNAME => iif = text(value),
            fra::OIFNAME => oif = text(value),
            fra::GOTO => target = u32_of(value),
            fra::FWMARK => mark = u32_of(value),
            fra::FWMASK => mask = u32_of(value),
            // All ones: suppresses nothing.
            fra::SUPPRESS_PREFIXLEN | fra::SUPPRESS_IFGROUP => {
                plain &= u32_of(value) == Some(u32::MAX)
            }
            fra::L3MDEV => plain &= value == [0],
            fra::PAD => {}
            _ => plain = false,
        }
    }
    let selector = match (src_len, src, iif, oif, mark, mask) {
        (0, None, None, None, None, None) => Some(Selector::All),
        (0, None, Some(name), None, None, None) => Some(Selector::Iif(name)),
        (0, None, None, Some(name), None, None) => Some(Selector::Oif(name)),
        (1.., Some(ip), None, None, None, None) if Family::of(ip) == family => {
            IpNet::new(ip, src_len)
                .ok()
                .filter(|net| *net == net.trunc())
                .map(Selector::From)
        }
        (0, None, None, None, mark, Some(mask)) => Some(Selector::Mark(mark.unwrap_or(0), mask)),
        (0, None, Some(name), None, mark, Some(mask)) => {
            Some(Selector::IifMark(name, mark.unwrap_or(0), mask))
        }
        _ => None,
    };
    let shape = match (action, target) {
        (fra::TO_TABLE, None) => Some(RuleAction::Lookup(table)),
        (fra::GOTO_RULE, Some(target)) => Some(RuleAction::Goto(target)),
        (fra::BLACKHOLE, None) => Some(RuleAction::Blackhole),
        (fra::NOP, None) => Some(RuleAction::Nop),
        _ => None,
    };
    let for_all = plain && selector == Some(Selector::All);
    Some(match (selector, shape) {
        (Some(selector), Some(action)) if protocol == PROTOCOL && plain => Ok(Rule {
            family,
            priority,
            selector,
            action,
        }),
        _ => Err(ForeignRule {
            family,
            priority,
            to: dst.and_then(|ip| IpNet::new(ip, dst_len).ok()),
            protocol,
            table,
            action,
            for_all,
        }),
    })
}

/// Family, priority and protocol of a notification about a rule.
pub(crate) fn summary(reply: &Reply<'_>) -> Option<(Family, u32, u8)> {
    let family = family_of(*reply.payload.first()?)?;
    let attributes = reply.attributes(fra::HEADER);
    let priority = attributes
        .value(fra::PRIORITY)
        .and_then(u32_of)
        .unwrap_or(0);
    let protocol = attributes
        .value(fra::PROTOCOL)
        .and_then(|value| value.first().copied())
        .unwrap_or(0);
    Some((family, priority, protocol))
}
