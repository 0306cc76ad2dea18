//! What an instance calls its NICs. Its kernel names a new one after its place, unless another link has that name by then;
//! afterwards the names are the instance's own affair, and only the MAC tells which is which.

use serde_json::Value;
use tombolo_core::types::Mac;

use super::command::{self, ip_batch};
use super::ns::{Netns, NsError, link_names};

/// The name for a NIC that is about to be plugged.
///
/// # Errors
/// The namespace cannot be entered, or its links not read.
pub fn new_name(netns: &Netns, device_index: u16) -> Result<String, NsError> {
    let taken = netns.run(link_names)?;
    let mut index = u32::from(device_index);
    loop {
        let name = format!("eth{index}");
        if !taken.contains(&name) {
            return Ok(name);
        }
        index += 1;
    }
}

/// Gives a NIC, whatever it is called by now, another MTU. Without effect where the instance put it elsewhere.
///
/// # Errors
/// The namespace cannot be entered, or the MTU is refused.
pub fn set_mtu(netns: &Netns, mac: Mac, mtu: u32) -> Result<(), NsError> {
    netns.run(|| {
        let shown = command::run("ip", &["-j", "link", "show"], "")?;
        let links: Value = serde_json::from_str(&shown)
            .map_err(|source| netns.io("read the links")(source.into()))?;
        let mac = mac.to_string();
        let links = links.as_array().into_iter().flatten();
        let Some(name) = links
            .filter(|link| link["address"] == mac.as_str())
            .find_map(|link| link["ifname"].as_str())
        else {
            return Ok(());
        };
        ip_batch(&format!("link set {name} mtu {mtu}\n")).map_err(Into::into)
    })
}
