//! Reads our tables and compares their fixed part with what this build writes.

use rustix::io::Errno;
use tombolo_core::datapath::NatState;

use super::abi;
use super::elements::{self, Elements};
use super::fixed::{self, TABLES, VERSION, comment_of, header};
use crate::message::{Attributes, Reply, be32_of, text};
use crate::{Error, Request, Socket};

/// What the tables hold; `None` where one is missing or its fixed part differs.
pub fn observe(socket: &mut Socket) -> Result<Option<NatState>, Error> {
    match read(socket) {
        // Removed while we read it.
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
        outcome => outcome,
    }
}

fn read(socket: &mut Socket) -> Result<Option<NatState>, Error> {
    for table in TABLES {
        let same = version(socket, table)?
            && chains(socket, table)?
            && rules(socket, table)?
            && sets(socket, table)?;
        if !same {
            return Ok(None);
        }
    }
    let mut all = Elements::new();
    for set in fixed::sets() {
        let found = socket.dump(&elements::get(set.name), |reply| {
            Some(elements::parse(reply))
        })?;
        all.insert(set.name, found.into_iter().flatten().collect());
    }
    Ok(elements::decode(&all))
}

/// Family and name.
type Table = (u8, &'static str);

fn version(socket: &mut Socket, (family, name): Table) -> Result<bool, Error> {
    let mut request = Request::new("get nft table", name, abi::GET_TABLE, 0, &header(family));
    request.body.put_str(abi::table::NAME, name);
    let mut same = false;
    socket.ask(request, |reply| same |= is_this_version(reply))?;
    Ok(same)
}

pub(super) fn is_this_version(reply: &Reply<'_>) -> bool {
    let attributes = reply.attributes(abi::HEADER);
    let userdata = attributes.value(abi::table::USERDATA).unwrap_or_default();
    let dormant = attributes.value(abi::table::FLAGS).and_then(be32_of) != Some(0);
    comment_of(userdata) == Some(VERSION.as_str()) && !dormant
}

/// What identifies a chain.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainShape {
    name: String,
    kind: Option<String>,
    hook: Option<u32>,
    priority: Option<u32>,
    policy: Option<u32>,
}

fn chains(socket: &mut Socket, table: Table) -> Result<bool, Error> {
    let (family, name) = table;
    let request = Request::new("list nft chains", name, abi::GET_CHAIN, 0, &header(family));
    let mut found = socket.dump(&request, |reply| chain(reply, name))?;
    let mut wanted: Vec<_> = chains_of(table)
        .map(|chain| ChainShape {
            name: chain.name.to_owned(),
            kind: Some(chain.kind.to_owned()),
            hook: Some(chain.hook),
            priority: Some(chain.priority.cast_unsigned()),
            policy: Some(1),
        })
        .collect();
    found.sort();
    wanted.sort();
    Ok(found == wanted)
}

fn chains_of((family, name): Table) -> impl Iterator<Item = &'static fixed::Chain> {
    fixed::chains().filter(move |chain| (chain.family, chain.table) == (family, name))
}

pub(super) fn chain(reply: &Reply<'_>, table: &str) -> Option<ChainShape> {
    let attributes = of(reply, abi::chain::TABLE, table)?;
    let hook = attributes.inside(abi::chain::HOOK);
    Some(ChainShape {
        name: attributes.value(abi::chain::NAME).and_then(text)?,
        kind: attributes.value(abi::chain::TYPE).and_then(text),
        hook: hook.value(abi::chain::HOOK_NUMBER).and_then(be32_of),
        priority: hook.value(abi::chain::HOOK_PRIORITY).and_then(be32_of),
        policy: attributes.value(abi::chain::POLICY).and_then(be32_of),
    })
}

/// Chain by chain the comments and the names of the expressions of its rules, in order.
fn rules(socket: &mut Socket, table: Table) -> Result<bool, Error> {
    let (family, name) = table;
    let mut request = Request::new("list nft rules", name, abi::GET_RULE, 0, &header(family));
    request.body.put_str(abi::rule::TABLE, name);
    let found = socket.dump(&request, |reply| rule(reply, name))?;
    let count: usize = chains_of(table).map(|chain| chain.rules.len()).sum();
    let same = |chain: &fixed::Chain| {
        found
            .iter()
            .filter(|(name, ..)| name == chain.name)
            .map(|(_, comment, names)| (comment.as_deref(), names))
            .eq_by_rule(chain)
    };
    Ok(found.len() == count && chains_of(table).all(same))
}

/// Of a rule: its chain, its comment, the names of its expressions.
pub(super) fn rule(
    reply: &Reply<'_>,
    table: &str,
) -> Option<(String, Option<String>, Vec<String>)> {
    let attributes = of(reply, abi::rule::TABLE, table)?;
    let expressions = attributes.inside(abi::rule::EXPRESSIONS);
    let names: Vec<_> = expressions
        .filter_map(|(_, elem)| Attributes(elem).value(1).and_then(text))
        .collect();
    let comment =
        comment_of(attributes.value(abi::rule::USERDATA).unwrap_or_default()).map(str::to_owned);
    Some((
        attributes.value(abi::rule::CHAIN).and_then(text)?,
        comment,
        names,
    ))
}

trait EqByRule {
    fn eq_by_rule(self, chain: &fixed::Chain) -> bool;
}

impl<'a, I: Iterator<Item = (Option<&'a str>, &'a Vec<String>)>> EqByRule for I {
    fn eq_by_rule(self, chain: &fixed::Chain) -> bool {
        let wanted = chain.rules.iter().map(|rule| {
            (
                Some(rule.comment),
                rule.exprs
                    .iter()
                    .map(|expr| expr.name().to_owned())
                    .collect::<Vec<_>>(),
            )
        });
        self.map(|(comment, names)| (comment, names.clone()))
            .eq(wanted)
    }
}

fn sets(socket: &mut Socket, (family, name): Table) -> Result<bool, Error> {
    let mut request = Request::new("list nft sets", name, abi::GET_SET, 0, &header(family));
    request.body.put_str(abi::set::TABLE, name);
    let mut found = socket.dump(&request, |reply| set(reply, name))?;
    let mut wanted: Vec<_> = fixed::sets()
        .filter(|set| (abi::INET, set.table) == (family, name))
        .map(|set| {
            let data_type = set.data.map(|data| data.data_type);
            (
                set.name.to_owned(),
                set.flags(),
                Some(set.key_type),
                Some(set.key_len),
                data_type,
            )
        })
        .collect();
    found.sort();
    wanted.sort();
    Ok(found == wanted)
}

/// Name, flags, type and length of the key, type of the data.
type SetShape = (String, u32, Option<u32>, Option<u32>, Option<u32>);

pub(super) fn set(reply: &Reply<'_>, table: &str) -> Option<SetShape> {
    let attributes = of(reply, abi::set::TABLE, table)?;
    let number = |kind| attributes.value(kind).and_then(be32_of);
    Some((
        attributes.value(abi::set::NAME).and_then(text)?,
        number(abi::set::FLAGS).unwrap_or(0),
        number(abi::set::KEY_TYPE),
        number(abi::set::KEY_LEN),
        number(abi::set::DATA_TYPE),
    ))
}

/// The attributes of a message about something in a table with this name.
fn of<'a>(reply: &Reply<'a>, kind: u16, table: &str) -> Option<Attributes<'a>> {
    let attributes = reply.attributes(abi::HEADER);
    (attributes.value(kind).and_then(text).as_deref() == Some(table)).then_some(attributes)
}
