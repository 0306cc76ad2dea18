//! The lab's harness: brings a VPC, a Kubernetes API and nodes up on one machine, runs pods in them, judges the result.
//!
//! | module | does |
//! |---|---|
//! | [`topology`], [`state`] | what was asked for, what runs |
//! | [`up`], [`node`], [`process`] | bringing up and taking down |
//! | [`kubeapi`], [`http`] | talking to API server, simulator, agents |
//! | [`pods`], [`probe`], [`matrix`] | pods, connections between them, who reaches whom |
//! | [`check`] | the invariant checker |
//! | [`demo`] | `make demo` |
//! | [`torture`], [`soak`] | `make torture`, `make soak` |
//! | [`runtime_bench`] | sandboxes by containerd, beside another network |

pub mod check;
pub mod cli;
pub mod demo;
pub mod http;
pub mod kubeapi;
pub mod matrix;
pub mod node;
pub mod pods;
pub mod probe;
pub mod process;
pub mod residue;
pub mod runtime_bench;
pub mod soak;
pub mod spoof;
pub mod state;
pub mod topology;
pub mod torture;
pub mod up;
