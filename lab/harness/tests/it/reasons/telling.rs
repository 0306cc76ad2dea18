//! What people see of a fault: logs, metrics, Events, conditions; before it, and since.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::Value;
use tombolo_core::types::Reason;
use tombolo_lab::check::gather::AGENT_PORT;
use tombolo_lab::http::get_text_in_netns;
use tombolo_lab::kubeapi::text;
use tombolo_lab::state::Node;
use tombolo_lab::up::wait_for;

use super::faults::{Row, Teller};
use super::{Day, OPERATOR_PORT, PATIENCE};

/// What people could have seen before the fault.
pub(super) struct Before {
    pub(super) operator_log: usize,
    pub(super) agent_log: usize,
    pub(super) operator: String,
    pub(super) agent: String,
    pub(super) events: BTreeSet<String>,
}

impl Day<'_> {
    pub(super) async fn before(&self, node: &Node) -> Result<Before> {
        Ok(Before {
            operator_log: self.log("operator", 0)?.len(),
            agent_log: self.log(&format!("agent-{}", node.name), 0)?.len(),
            operator: self.operator().await?,
            agent: self.agent(node, "/metrics").await?,
            events: self.events().await?.into_keys().collect(),
        })
    }

    /// Log, metric and Event of the problem itself.
    pub(super) async fn told(
        &self,
        (teller, also): (Teller, &[Reason]),
        node: &Node,
        word: Reason,
        before: &Before,
    ) -> Result<()> {
        let reason = [("reason", word.word())];
        let of_node = [("operation", "node"), reason[0]];
        match teller {
            Teller::Operator => {
                let begun = wait_for("the metric", PATIENCE, async || {
                    let operator = self.operator().await?;
                    Ok(grew(
                        &before.operator,
                        &operator,
                        "operator_problems_begun_total",
                        &reason,
                    ))
                });
                begun.await?;
                let log = self.log("operator", before.operator_log)?;
                ensure!(
                    log.contains(&format!("{}{word} ", problem_of(node))),
                    "{word} is not in the operator's log:\n{log}"
                );
            }
            Teller::Agent => {
                let begun = wait_for("the metric", PATIENCE, async || {
                    let agent = self.agent(node, "/metrics").await?;
                    Ok(grew(
                        &before.agent,
                        &agent,
                        "agent_operations_total",
                        &of_node,
                    ))
                });
                begun.await?;
                let log = self.log(&format!("agent-{}", node.name), before.agent_log)?;
                ensure!(
                    log.contains(&format!("problem on this node reason={word} ")),
                    "{word} is not in the agent's log:\n{log}"
                );
            }
        }
        wait_for("the Event", PATIENCE, async || {
            let seen = self.new_events(node, before).await?;
            Ok(seen.iter().any(|reason| reason == word.word()))
        })
        .await?;
        let seen = self.new_events(node, before).await?;
        let expected =
            |seen: &String| *seen == word.word() || also.iter().any(|also| *seen == also.word());
        ensure!(seen.iter().all(expected), "other words, too: {seen:?}");
        Ok(())
    }

    /// Log and metric of the ADD that failed.
    pub(super) async fn told_of_add(
        &self,
        node: &Node,
        word: Reason,
        before: &Before,
    ) -> Result<()> {
        let agent = self.agent(node, "/metrics").await?;
        let labels = [("operation", "add"), ("reason", word.word())];
        let counted = grew(&before.agent, &agent, "agent_operations_total", &labels);
        ensure!(counted, "no metric of the ADD that failed with {word}");
        let log = self.log(&format!("agent-{}", node.name), before.agent_log)?;
        let line =
            |l: &str| l.contains(r#"operation="add""#) && l.contains(&format!("reason={word} "));
        ensure!(
            log.lines().any(line),
            "the agent's log has no ADD with {word}:\n{log}"
        );
        Ok(())
    }

    /// No problem of the node began, and no Event came.
    pub(super) async fn nothing_else(&self, row: &Row, node: &Node, before: &Before) -> Result<()> {
        let events = self.new_events(node, before).await?;
        let log = self.log("operator", before.operator_log)?;
        ensure!(
            events.is_empty() && !log.contains(&problem_of(node)),
            "{:?} was told: {events:?}",
            row.what
        );
        Ok(())
    }

    pub(super) async fn operator(&self) -> Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], OPERATOR_PORT));
        get_text_in_netns(&self.lab.vm("control")?.netns, address, "/metrics").await
    }

    pub(super) async fn agent(&self, node: &Node, path: &str) -> Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], AGENT_PORT));
        get_text_in_netns(&node.netns(), address, path).await
    }

    /// Reasons of all conditions.
    pub(super) async fn conditions(&self, node: &Node) -> Result<BTreeSet<String>> {
        let nrs = self.nrs(node).await?;
        let all = nrs.pointer("/status/conditions").and_then(Value::as_array);
        let all = all.into_iter().flatten();
        Ok(all.map(|c| text(c, "/reason")).collect())
    }

    /// Events of ours, by name.
    pub(super) async fn events(&self) -> Result<BTreeMap<String, Value>> {
        let all = self
            .api
            .list("/apis/events.k8s.io/v1/events")
            .await?
            .into_iter();
        let ours =
            all.filter(|event| text(event, "/reportingController").starts_with("tombolo.dev/"));
        Ok(ours
            .map(|event| (text(&event, "/metadata/name"), event))
            .collect())
    }

    /// Words of the Events about this node since then.
    pub(super) async fn new_events(&self, node: &Node, before: &Before) -> Result<Vec<String>> {
        let all = self.events().await?.into_iter();
        let new = all.filter(|(name, _)| !before.events.contains(name));
        let about = new.filter(|(_, event)| text(event, "/regarding/name") == node.name);
        Ok(about.map(|(_, event)| text(&event, "/reason")).collect())
    }

    /// What a process logged after so many bytes.
    pub(super) fn log(&self, process: &str, after: usize) -> Result<String> {
        let log = std::fs::read_to_string(self.lab.log(process))?;
        Ok(log.get(after..).unwrap_or_default().to_owned())
    }
}

/// How a line of the operator's log goes on in which a problem of this node begins.
fn problem_of(node: &Node) -> String {
    format!(": problem node={} reason=", node.name)
}

/// Sum of a metric's lines with these labels.
pub(super) fn number(metrics: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let name = format!("tombolo_{name}{{");
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    let lines = metrics.lines().filter(|line| line.starts_with(&name));
    let mine = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    let values = mine.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

fn grew(before: &str, now: &str, name: &str, labels: &[(&str, &str)]) -> bool {
    number(now, name, labels) > number(before, name, labels)
}
