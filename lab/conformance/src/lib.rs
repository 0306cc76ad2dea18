//! A black-box conformance suite for CNI plugins.
//!
//! [`statements`] says what must hold, [`cases`] tries it, [`run`] runs cases on a [`subject`] and keeps how they ended,
//! [`page`] puts that beside what is known ([`gaps`]).
//!
//! The suite speaks to a plugin as a runtime does, by variables and stdin, and sees what it did through other programs (`ip`,
//! `nft`, `tc`, `iptables`) and files.

pub mod call;
pub mod case;
pub mod cases;
pub mod gaps;
pub mod page;
pub mod rig;
pub mod run;
pub mod stage;
pub mod statements;
pub mod subject;
pub mod tools;
pub mod version;
