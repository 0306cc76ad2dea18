//! ADD and DEL: ours, Debian's `ptp` + `host-local`, and the floor, interleaved call by call in one run.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use crate::exec::{Plugin, Sandbox, exec};
use crate::sandbox::{Agent, BenchNic, ip, run};
use crate::stats::{Rounds, Row};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds.
    pub rounds: usize,
    /// Runs of each in all rounds together.
    pub runs: usize,
}

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
const PEER: &str = "ptp+host-local";

/// Samples of one plugin.
#[derive(Debug, Default)]
struct Samples {
    add: Rounds,
    del: Rounds,
    gone: Rounds,
}

/// The measured node: two NICs towards a namespace that stands for the VPC.
pub fn make_node(vpc: &str) -> Result<Vec<BenchNic>> {
    run("ip", &["netns", "add", vpc])?;
    let nics: Vec<BenchNic> = (0..2_u16)
        .map(|i| BenchNic {
            index: i,
            mac: format!("02:00:00:00:00:1{i}"),
            net: u8::try_from(i).unwrap_or(0) + 1,
            pods: 120,
        })
        .collect();
    for nic in &nics {
        let (i, net) = (nic.index, nic.net);
        run(
            "ip",
            &[
                "link",
                "add",
                &format!("eth{i}"),
                "address",
                &nic.mac,
                "type",
                "veth",
                "peer",
                "name",
                &format!("v{i}"),
                "netns",
                vpc,
            ],
        )?;
        ip(
            Some(vpc),
            &format!("link set v{i} up\naddress add 10.0.{net}.1/24 dev v{i}\n"),
        )?;
    }
    ip(
        None,
        "link set eth0 up\naddress add 10.0.1.10/24 dev eth0\nroute add default via 10.0.1.1\n-6 address add fd00:0:0:1::10/128 dev eth0 nodad\n",
    )?;
    Ok(nics)
}

fn ours(bin: &Path, socket: &Path) -> Plugin {
    let conf = json!({ "cniVersion": "1.0.0", "name": "tombolo", "type": "tombolo-cni", "agentSocket": socket });
    Plugin {
        name: "tombolo",
        binary: bin.join("tombolo-cni"),
        args: Vec::new(),
        conf,
    }
}

fn ptp(dual: bool) -> Plugin {
    let mut ranges = vec![json!([{ "subnet": "10.244.0.0/16" }])];
    let mut routes = vec![json!({ "dst": "0.0.0.0/0" })];
    if dual {
        ranges.push(json!([{ "subnet": "fd00:244::/64" }]));
        routes.push(json!({ "dst": "::/0" }));
    }
    let name = if dual { "ptp-dual" } else { "ptp" };
    let ipam = json!({ "type": "host-local", "ranges": ranges, "routes": routes });
    let conf = json!({ "cniVersion": "1.0.0", "name": name, "type": "ptp", "ipMasq": false, "ipam": ipam });
    Plugin {
        name: PEER,
        binary: PathBuf::from("/usr/lib/cni/ptp"),
        args: Vec::new(),
        conf,
    }
}

fn floor(dual: bool) -> Result<Plugin> {
    let mut args = vec!["10.99.0.1".to_owned()];
    if dual {
        args.push("fd99::1".to_owned());
    }
    let own = std::env::current_exe()?;
    let binary = own
        .parent()
        .context("directory of this program")?
        .join("floor");
    Ok(Plugin {
        name: "floor",
        binary,
        args,
        conf: json!({}),
    })
}

/// Everything about ADD and DEL.
pub fn measure(bin: &Path, effort: Effort) -> Result<Vec<Row>> {
    let nics = make_node("vpc")?;
    let mut rows = Vec::new();
    for (families, dual) in [("IPv4", false), ("DualStack", true)] {
        let dir = PathBuf::from(format!("/run/bench-{families}"));
        let agent = Agent::start(&bin.join("tombolo-agent"), None, &dir, &nics, families)?;
        let plugins = [ours(bin, &dir.join("agent.sock")), ptp(dual), floor(dual)?];
        rows.extend(alone(&plugins, families, effort)?);
        rows.extend(at_once(&plugins, families, effort, 8)?);
        if dual {
            rows.extend(burst(&plugins[0], 110, effort)?);
        }
        drop(agent);
        run(
            &bin.join("tombolo-agent").to_string_lossy(),
            &["uninstall", "--run-dir", &dir.to_string_lossy()],
        )?;
    }
    Ok(rows)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// One at a time. The peer waits 1.7 s for duplicate address detection in dual stack: it gets fewer runs there.
fn alone(plugins: &[Plugin; 3], families: &str, effort: Effort) -> Result<Vec<Row>> {
    let mut samples: [Samples; 3] = Default::default();
    let per_round = effort.runs.div_ceil(effort.rounds);
    for round in 0..effort.rounds {
        for s in &mut samples {
            s.add.begin();
            s.del.begin();
            s.gone.begin();
        }
        for i in 0..per_round {
            for k in 0..plugins.len() {
                // The order rotates, so that none always runs after the same other.
                let which = (i + k) % plugins.len();
                let (Some(plugin), Some(s)) = (plugins.get(which), samples.get_mut(which)) else {
                    continue;
                };
                let sandbox = Sandbox::create(format!("a{families}{round}-{i}-{which}"))?;
                let (add, answer) = exec(plugin, "ADD", &sandbox, None)?;
                let begin = Instant::now();
                let (del, _) = exec(plugin, "DEL", &sandbox, Some(&answer))?;
                wait_gone(&answer)?;
                s.add.add(ms(add));
                s.del.add(ms(del));
                s.gone.add(ms(begin.elapsed()));
                sandbox.remove()?;
            }
        }
    }
    let [a, b, c] = &samples;
    let n = a.add.count();
    let mut rows = Vec::new();
    for (label, q) in QUANTILES {
        let row = |name: &str, f: fn(&Samples) -> &Rounds| {
            Row::new(
                &format!("{name} {families} {label}"),
                "ms",
                f(a).quantile(q),
                f(b).quantile(q).map(|v| (PEER, v)),
                f(c).quantile(q),
                n,
            )
        };
        rows.push(row("ADD", |s| &s.add));
        rows.push(row("DEL to return", |s| &s.del));
        rows.push(row("DEL until all is gone", |s| &s.gone));
    }
    Ok(rows)
}

/// Waits until the host end that the answer names is no more, whatever it is called now.
fn wait_gone(answer: &Value) -> Result<()> {
    let interfaces = answer
        .pointer("/interfaces")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let macs: Vec<String> = interfaces
        .filter(|i| {
            i.get("sandbox")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .is_empty()
        })
        .filter_map(|i| i.get("mac")?.as_str().map(str::to_owned))
        .collect();
    let begin = Instant::now();
    while !macs.is_empty() {
        let gone = std::fs::read_to_string("/proc/net/dev").context("read /proc/net/dev")?;
        // Names of host ends: ours begin with tmb, the peer's with veth.
        let left = gone
            .lines()
            .filter(|l| l.trim_start().starts_with("tmb") || l.trim_start().starts_with("veth"))
            .count();
        if left == 0 {
            break;
        }
        if begin.elapsed() > Duration::from_secs(5) {
            return Err(anyhow!(
                "host end of {macs:?} is still there after 5 s:\n{gone}"
            ));
        }
        thread::yield_now();
    }
    Ok(())
}

/// Several started together, again and again.
fn at_once(
    plugins: &[Plugin; 3],
    families: &str,
    effort: Effort,
    together: usize,
) -> Result<Vec<Row>> {
    let mut samples: [Samples; 3] = Default::default();
    let batches = effort.runs.div_ceil(together * effort.rounds);
    for round in 0..effort.rounds {
        for s in &mut samples {
            s.add.begin();
            s.del.begin();
        }
        for i in 0..batches {
            // The floor's fixed addresses do not bear company on one host.
            for (which, plugin) in plugins.iter().enumerate().take(2) {
                let Some(s) = samples.get_mut(which) else {
                    continue;
                };
                for (add, del) in
                    together_once(plugin, &format!("p{families}{round}-{i}-{which}"), together)?
                {
                    s.add.add(ms(add));
                    s.del.add(ms(del));
                }
            }
        }
    }
    let [a, b, _] = &samples;
    let n = a.add.count();
    let mut rows = Vec::new();
    for (label, q) in QUANTILES {
        for (name, f) in [
            (
                "ADD",
                (|s: &Samples| s.add.clone()) as fn(&Samples) -> Rounds,
            ),
            ("DEL to return", |s| s.del.clone()),
        ] {
            let (ours, peer) = (f(a).quantile(q), f(b).quantile(q).map(|v| (PEER, v)));
            rows.push(Row::new(
                &format!("{name} {families} {together} at once {label}"),
                "ms",
                ours,
                peer,
                None,
                n,
            ));
        }
    }
    Ok(rows)
}

/// Starts `count` ADDs at one moment, then their DELs at one moment.
fn together_once(plugin: &Plugin, prefix: &str, count: usize) -> Result<Vec<(Duration, Duration)>> {
    let sandboxes: Vec<Sandbox> = (0..count)
        .map(|i| Sandbox::create(format!("{prefix}-{i}")))
        .collect::<Result<_>>()?;
    let added = all(&sandboxes, |s| exec(plugin, "ADD", s, None))?;
    let pairs: Vec<(&Sandbox, &Value)> =
        sandboxes.iter().zip(added.iter().map(|(_, v)| v)).collect();
    let deleted = all(&pairs, |(s, v)| exec(plugin, "DEL", s, Some(v)))?;
    for sandbox in &sandboxes {
        sandbox.remove()?;
    }
    Ok(added
        .iter()
        .zip(&deleted)
        .map(|((a, _), (d, _))| (*a, *d))
        .collect())
}

/// Runs one call for each item, all released by one barrier.
fn all<T: Sync>(
    items: &[T],
    call: impl Fn(&T) -> Result<(Duration, Value)> + Sync,
) -> Result<Vec<(Duration, Value)>> {
    let barrier = Barrier::new(items.len());
    let (barrier, call) = (&barrier, &call);
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .iter()
            .map(|item| {
                scope.spawn(move || {
                    barrier.wait();
                    call(item)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().map_err(|_| anyhow!("a runner thread panicked"))?)
            .collect()
    })
}

/// A node's worth of pods started together from a warm pool.
fn burst(plugin: &Plugin, count: usize, effort: Effort) -> Result<Vec<Row>> {
    let mut samples = Rounds::default();
    for round in 0..effort.rounds {
        samples.begin();
        for (add, _) in together_once(plugin, &format!("b{round}"), count)? {
            samples.add(ms(add));
        }
    }
    let n = samples.count();
    Ok(QUANTILES
        .iter()
        .map(|(label, q)| {
            Row::new(
                &format!("{count} ADDs together, dual stack, {label}"),
                "ms",
                samples.quantile(*q),
                None,
                None,
                n,
            )
        })
        .collect())
}
