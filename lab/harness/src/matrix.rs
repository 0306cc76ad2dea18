//! The connectivity matrix, by packets: who reaches whom, and with which address it is seen there.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};

use crate::node::{in_netns, output};
use crate::probe::{Outcome, Report};
use crate::state::Lab;

/// One end of a connection: a namespace with addresses in which a probe listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// For people.
    pub name: String,
    /// Network namespace, a path.
    pub netns: String,
    /// Addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
}

impl Place {
    /// Its address of the same family as `other`.
    #[must_use]
    pub fn same_family(&self, other: IpAddr) -> Option<IpAddr> {
        self.ips
            .iter()
            .copied()
            .find(|ip| ip.is_ipv4() == other.is_ipv4())
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// From.
    pub from: String,
    /// To.
    pub to: String,
    /// Address that was called.
    pub address: IpAddr,
    /// What happened.
    pub report: Report,
    /// The caller must have been seen with this address; `None`: with anything but its own.
    pub expected_source: Option<IpAddr>,
}

impl Cell {
    /// Connected, at the first SYN, with the expected source seen.
    #[must_use]
    pub fn good(&self) -> bool {
        let source = match self.expected_source {
            Some(wanted) => self.report.seen_by_server == Some(wanted),
            None => {
                self.report.seen_by_server.is_some()
                    && self.report.seen_by_server != self.report.local
            }
        };
        self.report.outcome == Outcome::Connected && source
    }
}

/// Port of every probe.
pub const PORT: u16 = 8080;

/// One connection from a place to an address.
pub fn try_connect(lab: &Lab, from: &Place, to: IpAddr, bytes: usize) -> Result<Report> {
    let probe = lab.topology.binary("tombolo-lab")?;
    let mut command = in_netns(&from.netns, probe);
    command.args([
        "probe",
        "connect",
        &SocketAddr::new(to, PORT).to_string(),
        "--bytes",
        &bytes.to_string(),
    ]);
    let text = output(command)?;
    serde_json::from_str(&text)
        .with_context(|| format!("probe from {} to {to}: {text:?}", from.name))
}

/// Tries every pair in both families that both have. Inside the VPC each side must see the other's true address.
pub fn untranslated(lab: &Lab, from: &[Place], to: &[Place]) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for source in from {
        for target in to.iter().filter(|t| t.netns != source.netns) {
            for address in &target.ips {
                let Some(own) = source.same_family(*address) else {
                    continue;
                };
                let report = try_connect(lab, source, *address, 4096)?;
                cells.push(Cell {
                    from: source.name.clone(),
                    to: target.name.clone(),
                    address: *address,
                    report,
                    expected_source: Some(own),
                });
            }
        }
    }
    Ok(cells)
}

/// Tries the internet: IPv4 must be seen translated, IPv6 with the caller's own address.
pub fn internet(lab: &Lab, from: &[Place]) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for source in from {
        for address in &lab.internet {
            let Some(own) = source.same_family(*address) else {
                continue;
            };
            let report = try_connect(lab, source, *address, 4096)?;
            let expected_source = address.is_ipv6().then_some(own);
            cells.push(Cell {
                from: source.name.clone(),
                to: "internet".to_owned(),
                address: *address,
                report,
                expected_source,
            });
        }
    }
    Ok(cells)
}
