//! Tests against the real kernel, each in network namespaces of its own. What the code under test made is asserted by
//! the tools `ip` and `nft`, or by packets, never by itself alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod events;
mod netns;
mod nft;
mod node;
mod objects;
mod pod;
mod sockets;
mod support;
