//! A small Kubernetes API server for the lab: an untyped JSON store behind the parts of the API that operator, agent and
//! kubectl use. It is not the product, and where it answers, it answers as a real server does; `tests/it` runs against both.
//!
//! ```text
//!   http ──▶ api (create, replace, patch, delete, bind) ──▶ store (objects, versions, history)
//!    │        ├─ admission: metadata, defaults, validation; schema: custom resources       │
//!    │        └─ registry: which kinds are served                                          │
//!    └─ watch ◀────────────────────────── history, by cursor ◀────────────────────────────┤
//!                                          gc, scheduler ◀─────────────────────────────────┘
//! ```
//!
//! Left out: authentication, server-side apply, CEL, protobuf, logs and exec, persistence, controllers other than the
//! collector and the scheduler.
#![forbid(unsafe_code)]

mod admission;
mod api;
mod counters;
mod discovery;
mod error;
mod event;
mod gc;
mod http;
mod jsonpath;
mod listen;
mod load;
mod object;
mod patch;
mod registry;
mod scheduler;
mod schema;
mod selector;
mod server;
mod store;
mod table;

pub use listen::InNamespace;
pub use server::{Args, Server, run};
