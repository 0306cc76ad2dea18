//! Listening sockets, in this process's network namespace or in others.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow};
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace by its path, and an address in it: `/run/netns/x=10.0.0.1:6443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InNamespace {
    /// Path of the namespace, as `/run/netns/<name>` or `/proc/<pid>/ns/net`.
    pub netns: PathBuf,
    /// Address in it.
    pub addr: SocketAddr,
}

impl FromStr for InNamespace {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (netns, addr) = text
            .rsplit_once('=')
            .ok_or_else(|| anyhow!("'{text}' is not NETNS_PATH=ADDR:PORT"))?;
        let addr = addr
            .parse()
            .with_context(|| format!("'{addr}' is not an address with a port"))?;
        Ok(Self {
            netns: PathBuf::from(netns),
            addr,
        })
    }
}

/// Listens in this process's namespace.
pub fn here(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).with_context(|| format!("listen on {addr}"))
}

/// Listens in another namespace: a thread goes there, makes the socket and ends. A socket stays in the namespace in which it
/// was made.
pub fn there(wanted: &InNamespace) -> anyhow::Result<TcpListener> {
    let InNamespace { netns, addr } = wanted.clone();
    let shown = format!("{addr} in {}", netns.display());
    let thread = std::thread::Builder::new()
        .name("listen-in".to_owned())
        .spawn(move || {
            enter(&netns)?;
            here(addr)
        })
        .context("start a thread to listen from")?;
    thread
        .join()
        .map_err(|_| anyhow!("the listening thread panicked"))?
        .with_context(|| format!("listen on {shown}"))
}

fn enter(netns: &Path) -> anyhow::Result<()> {
    let fd = open(netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open namespace {}", netns.display()))?;
    move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&fd),
        Some(LinkNameSpaceType::Network),
    )
    .with_context(|| format!("enter namespace {}", netns.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_parse() {
        let both: InNamespace = "/run/netns/a=[fd00::1]:6443".parse().unwrap();
        assert_eq!(both.netns, Path::new("/run/netns/a"));
        assert_eq!(both.addr, "[fd00::1]:6443".parse().unwrap());
        assert!("10.0.0.1:1".parse::<InNamespace>().is_err());
        assert!("/x=10.0.0.1".parse::<InNamespace>().is_err());
    }
}
