//! The kernel's reverse-path filter, off, strict and loose: the same connectivity.

use anyhow::{Result, ensure};
use tombolo_lab::matrix::{internet, untranslated};
use tombolo_lab::node::output;
use tombolo_lab::topology::Topology;

use crate::support::{one_of_each_nic, place, run_pods, scenario, vm_place};

#[test]
fn every_rp_filter_gives_the_same_matrix() {
    scenario(Topology::with("rpfilter", 2, "t3.medium", 1), async |lab| {
        let running = run_pods(&lab, 13).await?;
        let pods: Vec<_> = one_of_each_nic(&lab, &running)
            .await?
            .values()
            .map(|p| place(&lab, p))
            .collect::<Result<_>>()?;
        ensure!(
            pods.len() >= 4,
            "two NICs on two nodes are wanted: {pods:?}"
        );
        let vms = [vm_place(&lab, "vm1")?];
        for value in ["0", "1", "2"] {
            for node in &lab.nodes {
                // Of every link there is, and of those to come.
                let script = format!(
                    "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {value} > $f; done"
                );
                let mut command = node.command("sh");
                command.args(["-c", &script]);
                output(command)?;
            }
            let mut cells = untranslated(&lab, &pods, &pods)?;
            cells.extend(untranslated(&lab, &vms, &pods)?);
            cells.extend(untranslated(&lab, &pods, &vms)?);
            cells.extend(internet(&lab, &pods)?);
            let bad: Vec<_> = cells.iter().filter(|c| !c.good()).collect();
            ensure!(bad.is_empty(), "rp_filter={value}: {bad:#?}");
        }
        Ok(())
    });
}
