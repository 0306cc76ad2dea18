//! The table: what happens, its word, where the word is to be seen, and how it is planted. docs/failures.md has the first
//! three for people.

use tombolo_core::types::Reason;
use tombolo_lab_vpc::knobs::Knob;
use tombolo_lab_vpc::knobs::faults::Corruption;

use Fault::{Deed, Turned};
use Seen::{AllButAdd, Everywhere, Log, Nowhere};
use Teller::{Agent, Operator};

use crate::bed::FOR_EVER;

/// Nodes of the lab. One NIC of this one has room for everything.
pub const WIDE: &str = "wide";
/// Every pod takes a NIC, of which there are many.
pub const SLIM: &str = "slim";
/// Every pod takes a NIC, of which there are two.
pub const TINY: &str = "tiny";

/// Milliseconds that attaching takes in this lab, and after which it is reported.
pub const ATTACHING: u64 = 20;
pub const ATTACH_TIMEOUT: u64 = 500;

/// Where the word is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No address can be had: log, metric, Event, condition, and the error of ADD.
    Everywhere,
    /// Log, metric and Event; ADD succeeds.
    AllButAdd,
    /// The log of one call; it is made again, and ADD succeeds.
    Log,
    /// It costs nothing, and nobody is told.
    Nowhere,
}

impl Seen {
    /// As docs/failures.md says it.
    pub const fn text(self) -> &'static str {
        match self {
            Everywhere => "log, metric, Event, condition, CNI error",
            AllButAdd => "log, metric, Event; ADD succeeds",
            Log => "log; ADD succeeds",
            Nowhere => "nowhere; ADD succeeds",
        }
    }
}

/// Whose log and metric tell of the problem itself. (That an ADD failed is always told by the agent.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    Operator,
    Agent,
}

/// What people do behind our back, or what needs more than knobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// No reading shows the node's instance.
    HideInstance,
    /// All addresses of this family of the subnet go to others.
    FillSubnet {
        v4: bool,
    },
    /// All pods that the instance type allows.
    Crowd,
    /// The node's kernel shows the NIC with the free address no more.
    HideLink,
    TakeFree,
    TakeBound,
    MoveBound,
    DetachNic,
    DeleteNic,
}

#[derive(Clone, Debug)]
pub enum Fault {
    Turned(Vec<Knob>),
    Deed(Misdeed),
}

pub struct Row {
    /// As in docs/failures.md, which has each once.
    pub what: &'static str,
    /// `None` where nobody is told.
    pub word: Option<Reason>,
    pub seen: Seen,
    pub teller: Teller,
    pub node: &'static str,
    pub fault: Fault,
    /// Other words of Events that the fault brings by itself.
    pub also: &'static [Reason],
    /// ADDs at the same time, where ADD succeeds.
    pub adds: usize,
}

impl Row {
    /// Whether it is nothing but what readings show.
    pub fn is_about_readings(&self) -> bool {
        let distorts = |knob: &Knob| {
            matches!(
                knob,
                Knob::Stale { .. } | Knob::OmitAddresses { .. } | Knob::OmitNics { .. }
            )
        };
        matches!(&self.fault, Turned(knobs) if knobs.iter().all(distorts))
    }
}

fn row(what: &'static str, word: Option<Reason>, seen: Seen, fault: Fault) -> Row {
    Row {
        what,
        word,
        seen,
        teller: Operator,
        node: WIDE,
        fault,
        also: &[],
        adds: 1,
    }
}

const ASSIGN: &str = "AssignAddresses";
const NICS: &str = "DescribeNics";

/// A knob for the next calls of these verbs.
fn each(verbs: &[&str], count: u32, knob: impl Fn(String, u32) -> Knob) -> Fault {
    Turned(verbs.iter().map(|v| knob((*v).to_owned(), count)).collect())
}

fn fail(verb: &str, code: &str, count: u32, skip: u32) -> Knob {
    let (verb, code) = (verb.to_owned(), code.to_owned());
    Knob::Fail {
        verb,
        code,
        count,
        skip,
    }
}

#[rustfmt::skip]
pub fn all() -> Vec<Row> {
    let cloud_error = Some(Reason::CloudError);
    let attach = Some(Reason::AttachTimeout);
    let conflict = Some(Reason::ForeignConflict);
    let skip = 0;
    let hold = |verb, count| Knob::HoldReply { verb, count, skip };
    let lose = |verb, count| Knob::LoseReply { verb, count, skip };
    let cut = |verb, count| Knob::LoseRequest { verb, count, skip };
    let another = |verb, count| Knob::RepeatReply { verb, count, skip };
    let twice = |verb, count| Knob::RepeatRequest { verb, count, skip };
    let spoil = |how| move |verb, count| Knob::CorruptReply { verb, how, count, skip };
    let refuse = |code| move |verb: String, count| fail(&verb, code, count, 0);
    let old = |verb: String, _| Knob::Stale { verb, ms: 200 };
    let both = &[ASSIGN, NICS];
    let mut rows = vec![
        // One call.
        row("one reply is late", cloud_error, Log, each(&[ASSIGN], 1, hold)),
        row("one reply is lost", cloud_error, Log, each(&[ASSIGN], 1, lose)),
        row("one call does not arrive", cloud_error, Log, each(&[ASSIGN], 1, cut)),
        row("one reply belongs to another call", cloud_error, Log, each(&[ASSIGN], 1, another)),
        row("one reply cannot be read", cloud_error, Log, each(&[ASSIGN], 1, spoil(Corruption::Garbage))),
        row("one call is refused", cloud_error, Log, each(&[ASSIGN], 1, refuse("InternalError"))),
        row("one call is throttled", Some(Reason::CloudThrottled), Log, each(&[ASSIGN], 1, refuse("RequestLimitExceeded"))),
        row("calls are carried out twice", None, Nowhere, each(&[ASSIGN], FOR_EVER, twice)),
        // All calls.
        row("replies are late, again and again", cloud_error, Everywhere, each(both, FOR_EVER, hold)),
        row("replies are lost, again and again", cloud_error, Everywhere, each(both, FOR_EVER, lose)),
        row("calls do not arrive, again and again", cloud_error, Everywhere, each(both, FOR_EVER, cut)),
        row("replies belong to other calls, again and again", cloud_error, Everywhere, each(&[ASSIGN], FOR_EVER, another)),
        row("addresses of an attached NIC are refused", cloud_error, Everywhere, each(&[ASSIGN], FOR_EVER, refuse("InternalError"))),
        row("addresses of one family are refused", cloud_error, Everywhere, Turned(vec![fail(ASSIGN, "InternalError", FOR_EVER, 1)])),
        row("all calls are throttled", Some(Reason::CloudThrottled), Everywhere, Turned(vec![Knob::Throttle { rate: 0.001, burst: 0 }])),
        // Inventory.
        row("readings are old", None, Nowhere, each(&[NICS, "DescribeSubnets", "DescribeInstances"], 0, old)),
        row("one reading leaves addresses out", None, Nowhere, Turned(vec![Knob::OmitAddresses { one_in: 2, replies: 1 }])),
        row("one reading leaves NICs out", None, Nowhere, Turned(vec![Knob::OmitNics { one_in: 1, replies: 1 }])),
        row("readings leave the node's instance out", None, Nowhere, Deed(Misdeed::HideInstance)),
        // Limits.
        row("the subnet has no address left", Some(Reason::SubnetFull), Everywhere, Deed(Misdeed::FillSubnet { v4: true })),
        row("the subnet has no address of one family left", Some(Reason::SubnetFull), Everywhere, Deed(Misdeed::FillSubnet { v4: false })),
        row("half of a batch is assigned", None, Nowhere, Turned(vec![Knob::HalfAssign { count: FOR_EVER }])),
        row("no NIC takes further addresses", Some(Reason::AddressLimit), Everywhere,
            each(&[ASSIGN, "CreateNic"], FOR_EVER, refuse("PrivateIpAddressLimitExceeded"))),
        row("a NIC takes no further address, another one does", Some(Reason::AddressLimit), AllButAdd,
            Turned(vec![fail(ASSIGN, "PrivateIpAddressLimitExceeded", 2, 0)])),
        // Attaching.
        row("attaching is slow, within the bound", None, Nowhere, Turned(vec![Knob::AttachDelay { ms: ATTACH_TIMEOUT / 3 }])),
        row("attaching fails once", None, Nowhere, Turned(vec![Knob::FailAttach { count: 1 }])),
        row("a NIC is stuck, another one comes", attach, AllButAdd, Turned(vec![Knob::StickAttach { count: 1 }])),
        row("attaching takes longer than the bound", attach, Everywhere, Turned(vec![Knob::AttachDelay { ms: 3_600_000 }])),
        row("attaching fails again and again", attach, Everywhere, Turned(vec![Knob::FailAttach { count: FOR_EVER }])),
        row("the last NIC that the node can have is stuck", attach, Everywhere, Turned(vec![Knob::StickAttach { count: FOR_EVER }])),
        row("the node does not see a NIC", attach, Everywhere, Deed(Misdeed::HideLink)),
        row("the node has all NICs that it can have", Some(Reason::NicLimit), Everywhere, Deed(Misdeed::Crowd)),
        // Behind our back.
        row("a NIC is detached", attach, AllButAdd, Deed(Misdeed::DetachNic)),
        row("a NIC is deleted", attach, AllButAdd, Deed(Misdeed::DeleteNic)),
        row("a free address is taken away", None, Nowhere, Deed(Misdeed::TakeFree)),
        row("an address of a pod is taken away", conflict, AllButAdd, Deed(Misdeed::TakeBound)),
        row("an address of a pod is moved to another node", conflict, AllButAdd, Deed(Misdeed::MoveBound)),
        row("readings leave addresses of pods out, again and again", conflict, AllButAdd,
            Turned(vec![Knob::OmitAddresses { one_in: 1, replies: FOR_EVER }])),
    ];
    // Two ways each: one for the call, one for the reading that follows it.
    let ways = [
        (Corruption::Cut, Corruption::Shape),
        (Corruption::Empty, Corruption::Page),
        (Corruption::Garbage, Corruption::Truncate),
    ];
    rows.extend(ways.map(|(one, other)| {
        let knobs = vec![spoil(one)(ASSIGN.to_owned(), FOR_EVER), spoil(other)(NICS.to_owned(), FOR_EVER)];
        row("replies cannot be read, again and again", cloud_error, Everywhere, Turned(knobs))
    }));
    for row in &mut rows {
        match (row.what, &row.fault) {
            ("the last NIC that the node can have is stuck", _) => {
                row.node = TINY;
                // While it is tried once more, what is missing besides it is told.
                row.also = &[Reason::NicLimit];
            }
            (_, Deed(Misdeed::Crowd)) => row.node = TINY,
            (_, Deed(Misdeed::HideLink)) => {
                row.node = TINY;
                // The operator does not see what is wrong, only that it can give no more.
                row.also = &[Reason::NicLimit];
                row.teller = Agent;
            }
            (_, Deed(Misdeed::DetachNic | Misdeed::DeleteNic | Misdeed::MoveBound)) => (row.node, row.teller) = (SLIM, Agent),
            (_, Deed(Misdeed::TakeBound)) => row.teller = Agent,
            (_, Turned(knobs)) => match knobs.as_slice() {
                [Knob::AttachDelay { .. } | Knob::FailAttach { .. } | Knob::StickAttach { .. }] => row.node = SLIM,
                [Knob::HalfAssign { .. }] => row.adds = 4,
                [Knob::OmitAddresses { one_in: 1, .. }] => {
                    row.teller = Agent;
                    // The NIC seems empty, and is full.
                    row.also = &[Reason::AddressLimit];
                }
                _ => {}
            },
            _ => {}
        }
    }
    // The readings that leave out most come last: they shake all nodes.
    rows.sort_by_key(|row| row.what.starts_with("readings leave addresses"));
    rows
}
