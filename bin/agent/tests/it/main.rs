//! The built agent in network namespaces: requests over its socket as the plugin makes them, the outcome looked at with
//! `ip -j`, `nft -j` and packets.

mod bed;
mod lifecycle;
mod recovery;
mod repair;
