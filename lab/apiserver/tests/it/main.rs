//! The API suite. By default every test has a server of its own in this process, reached over loopback TCP. With
//! `KUBE_BIN_DIR` the tests of the API itself run against a real kube-apiserver instead, one for all of them
//! (`scripts/api-suite.sh`); tests of what only the lab's server has (`local`) stay with ours.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod custom;
mod deletion;
mod deploy;
mod fixture;
mod kube_rs;
mod kubectl;
mod local;
mod objects;
mod patches;
mod tables;
mod watches;
