//! A container's namespace, and what `ip` says of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::tools::{ip_json, run, run_inside};

/// A container; its namespace goes with it.
#[derive(Debug)]
pub struct Pod {
    /// Name of the namespace; empty where there is none.
    name: String,
    /// File of the namespace: `CNI_NETNS`.
    pub path: PathBuf,
    /// `CNI_CONTAINERID`.
    pub id: String,
}

impl Pod {
    /// A container with a namespace of its own.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn new(name: String) -> Result<Self> {
        run("ip", &["netns", "add", &name])?;
        let pod = Self {
            path: PathBuf::from("/run/netns").join(&name),
            id: format!("id-{name}"),
            name,
        };
        // Some plugins wait for duplicate address detection, which takes seconds and is the kernel's matter.
        let set_up = "ip link set lo up && echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad";
        let enter = format!("--net={}", pod.path.display());
        run("nsenter", &[enter.as_str(), "sh", "-c", set_up])?;
        Ok(pod)
    }

    /// A container whose namespace is not there.
    #[must_use]
    pub fn without_namespace() -> Self {
        Self {
            name: String::new(),
            path: PathBuf::from("/run/netns/conformance-never-was"),
            id: "id-never-was".to_owned(),
        }
    }

    /// Removes the namespace, as a runtime that stops the container.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn lose_namespace(&mut self) -> Result<()> {
        run("ip", &["netns", "del", &std::mem::take(&mut self.name)])?;
        Ok(())
    }

    /// `ip` in the namespace.
    ///
    /// # Errors
    /// Where it fails.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        run_inside(&self.path, "ip", arguments).map(drop)
    }

    /// The link of this name.
    ///
    /// # Errors
    /// Where `ip` fails.
    pub fn link(&self, name: &str) -> Result<Option<Value>> {
        let links = ip_json(&self.path, "address show")?;
        Ok(links.into_iter().find(|link| link["ifname"] == name))
    }

    /// The link that must be there.
    ///
    /// # Errors
    /// Where it is not.
    pub fn eth0(&self) -> Result<Value> {
        self.link("eth0")?.context("there is no eth0 in the pod")
    }

    /// Addresses of `eth0` that are not of the link alone, with length.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn addresses(&self) -> Result<BTreeSet<String>> {
        let link = self.eth0()?;
        let infos = link["addr_info"].as_array().into_iter().flatten();
        let global = infos.filter(|info| info["scope"] == "global");
        let text = |info: &Value| {
            let (local, length) = (info["local"].as_str()?, info["prefixlen"].as_u64()?);
            Some(format!("{local}/{length}"))
        };
        Ok(global.filter_map(text).collect())
    }

    /// Destination and gateway of all routes of both families and all tables.
    ///
    /// # Errors
    /// Where `ip` fails.
    pub fn routes(&self) -> Result<Vec<(String, Option<String>)>> {
        let mut routes = ip_json(&self.path, "-4 route show table all")?;
        let v6 = ip_json(&self.path, "-6 route show table all")?;
        let v4_count = routes.len();
        routes.extend(v6);
        let route = |(index, route): (usize, &Value)| {
            let dst = match route["dst"].as_str()? {
                "default" if index < v4_count => "0.0.0.0/0".to_owned(),
                "default" => "::/0".to_owned(),
                dst if dst.contains('/') => dst.to_owned(),
                dst if dst.contains(':') => format!("{dst}/128"),
                dst => format!("{dst}/32"),
            };
            Some((dst, route["gateway"].as_str().map(str::to_owned)))
        };
        Ok(routes.iter().enumerate().filter_map(route).collect())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // One that stays shows as such in the comparison of before and after.
            drop(run("ip", &["netns", "del", &self.name]));
        }
    }
}
