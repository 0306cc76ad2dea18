//! ADD and DEL: ours, Debian's `ptp` + `host-local`, and the floor, interleaved call by call in one run.

use std::path::{Path, PathBuf};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use crate::before::pass;
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
    /// Whether another build takes turns with this one, in the peer's place.
    pub in_turns: bool,
}

impl Effort {
    /// A moment at which another build may work.
    pub fn pass(&self) -> Result<()> {
        if self.in_turns { pass() } else { Ok(()) }
    }
}

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
const PEER: &str = "ptp+host-local";
/// The order of the plugins.
const OURS: usize = 0;
const FLOOR: usize = 1;
const THE_PEER: usize = 2;

/// Samples of one plugin.
#[derive(Debug, Default)]
struct Samples {
    add: Rounds,
    del: Rounds,
    gone: Rounds,
}

impl Samples {
    fn begin(&mut self) {
        for rounds in [&mut self.add, &mut self.del, &mut self.gone] {
            rounds.begin();
        }
    }
}

/// The measured node: two NICs towards a namespace that stands for the VPC.
fn make_node(vpc: &str) -> Result<Vec<BenchNic>> {
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
        "link set eth0 up\naddress add 10.0.1.10/24 dev eth0\nroute add default via 10.0.1.1\naddress add fd00:0:0:1::10/128 dev eth0 nodad\n",
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
    let own = std::env::current_exe()?;
    let binary = own
        .parent()
        .context("directory of this program")?
        .join("floor");
    Ok(Plugin {
        name: "floor",
        binary,
        args: vec![if dual { "dual" } else { "ipv4" }.to_owned()],
        conf: json!({}),
    })
}

/// Runs `body` on a node of its own, which goes again.
pub fn on_node<T>(vpc: &str, body: impl FnOnce(&[BenchNic]) -> Result<T>) -> Result<T> {
    let nics = make_node(vpc)?;
    let out = body(&nics)?;
    for nic in &nics {
        // The other end goes with it.
        run("ip", &["link", "del", &format!("eth{}", nic.index)])?;
    }
    run("ip", &["netns", "del", vpc])?;
    Ok(out)
}

/// Everything about ADD and DEL.
pub fn measure(bin: &Path, effort: Effort) -> Result<Vec<Row>> {
    on_node("vpc", |nics| {
        let mut rows = Vec::new();
        for (families, dual) in [("IPv4", false), ("DualStack", true)] {
            let dir = PathBuf::from(format!("/run/bench-{families}"));
            let agent = Agent::start(&bin.join("tombolo-agent"), None, &dir, nics, families)?;
            let mut plugins = vec![ours(bin, &dir.join("agent.sock")), floor(dual)?];
            plugins.extend((!effort.in_turns).then(|| ptp(dual)));
            let measured = families_rows(&plugins, families, effort);
            let log = || format!("the agent's log ends:\n{}", agent.log_end());
            rows.extend(measured.with_context(log)?);
            agent.uninstall()?;
        }
        Ok(rows)
    })
}

fn families_rows(plugins: &[Plugin], families: &str, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = alone(plugins, families, effort)?;
    rows.extend(at_once(plugins, families, effort, 8)?);
    // A node's worth of pods, from a warm pool.
    rows.extend(at_once(plugins, families, effort, 110)?);
    Ok(rows)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// One at a time, each in a sandbox of its own. Sandboxes are made before and removed after a round: the kernel takes a
/// namespace apart in the background, under the lock that every ADD needs.
fn alone(plugins: &[Plugin], families: &str, effort: Effort) -> Result<Vec<Row>> {
    let mut samples = none(plugins);
    let least = if effort.in_turns { ALONE } else { 1 };
    let per_round = effort.runs.div_ceil(effort.rounds).max(least);
    for round in 0..effort.rounds {
        for s in &mut samples {
            s.begin();
        }
        let sandboxes =
            Sandbox::create_all(&format!("a{families}{round}"), plugins.len() * per_round)?;
        for (i, of_each) in sandboxes.chunks(plugins.len()).enumerate() {
            if i % TURN == 0 {
                effort.pass()?;
            }
            for (k, sandbox) in of_each.iter().enumerate() {
                // The order rotates, so that none always runs after the same other.
                let which = (i + k) % plugins.len();
                let (Some(plugin), Some(s)) = (plugins.get(which), samples.get_mut(which)) else {
                    continue;
                };
                let (add, answer) = exec(plugin, "ADD", sandbox, None)?;
                let begin = Instant::now();
                let (del, _) = exec(plugin, "DEL", sandbox, Some(&answer))?;
                wait_gone()?;
                s.gone.add(ms(begin.elapsed()));
                s.add.add(ms(add));
                s.del.add(ms(del));
                await_kernel()?;
            }
        }
        Sandbox::remove_all(&sandboxes)?;
        effort.pass()?;
    }
    let name = |what: &str| format!("{what} {families}");
    let mut rows = rows(&name("ADD"), &samples, |s| &s.add);
    rows.extend(self::rows(&name("DEL to return"), &samples, |s| &s.del));
    rows.extend(self::rows(&name("DEL until all is gone"), &samples, |s| {
        &s.gone
    }));
    Ok(rows)
}

fn none(plugins: &[Plugin]) -> Vec<Samples> {
    plugins.iter().map(|_| Samples::default()).collect()
}

/// One row a quantile, of samples in the order of the plugins.
fn rows(name: &str, samples: &[Samples], of: fn(&Samples) -> &Rounds) -> Vec<Row> {
    let quantile = |which: usize, q| samples.get(which).and_then(|s| of(s).quantile(q));
    QUANTILES
        .iter()
        .map(|(label, q)| {
            Row::new(
                &format!("{name} {label}"),
                "ms",
                quantile(OURS, *q),
                quantile(THE_PEER, *q).map(|value| (PEER, value)),
                quantile(FLOOR, *q),
                samples.get(OURS).map_or(0, |s| of(s).count()),
            )
        })
        .collect()
}

/// Waits until no host end is left. Routes and NAT state of ours are gone when DEL returns: the agent's tests show that.
fn wait_gone() -> Result<()> {
    let begin = Instant::now();
    loop {
        let links = std::fs::read_to_string("/proc/net/dev").context("read /proc/net/dev")?;
        // Names of host ends: ours begin with tmb, the peer's with veth, the floor's with flr.
        let left = links.lines().any(|line| {
            let name = line.trim_start();
            ["tmb", "veth", "flr"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if !left {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(5) {
            return Err(anyhow!("a host end is still there after 5 s:\n{links}"));
        }
        thread::yield_now();
    }
}

/// Waits for the lock under which the kernel deletes links, so that one plugin's deletion is not in another's time.
fn await_kernel() -> Result<()> {
    run("ip", &["link", "set", "lo", "up"]).map(drop)
}

/// Batches a round at least, and calls: what is told of few is chance.
const BATCHES: usize = 4;
const CALLS: usize = 320;
/// Calls a round at least that have the node to themselves, of two builds: the 99th percentile of fewer than a hundred is just
/// the longest. Beside the peer, whose dual stack takes two seconds a call, it would take half an hour.
const ALONE: usize = 120;

/// Calls of each plugin a turn: few, so that the machine is the same for both builds, and enough that what the last one left
/// for afterwards meets the build itself.
const TURN: usize = 10;

/// Several started together, again and again.
fn at_once(
    plugins: &[Plugin],
    families: &str,
    effort: Effort,
    together: usize,
) -> Result<Vec<Row>> {
    let mut samples = none(plugins);
    let asked = effort.runs.div_ceil(together * effort.rounds);
    let batches = asked.max(BATCHES).max(CALLS.div_ceil(together));
    let turn = (4 * TURN).div_ceil(together);
    for round in 0..effort.rounds {
        for s in &mut samples {
            s.begin();
        }
        for i in 0..batches {
            if i % turn == 0 {
                effort.pass()?;
            }
            for (which, (plugin, s)) in plugins.iter().zip(&mut samples).enumerate() {
                let name = format!("p{families}{round}-{i}-{which}");
                for (add, del) in together_once(plugin, &name, together)? {
                    s.add.add(ms(add));
                    s.del.add(ms(del));
                }
            }
        }
    }
    let name = |verb: &str| format!("{verb} {families} {together} at once");
    let mut rows = rows(&name("ADD"), &samples, |s| &s.add);
    rows.extend(self::rows(&name("DEL to return"), &samples, |s| &s.del));
    Ok(rows)
}

/// Starts `count` ADDs at one moment, then their DELs at one moment.
fn together_once(plugin: &Plugin, prefix: &str, count: usize) -> Result<Vec<(Duration, Duration)>> {
    let sandboxes = Sandbox::create_all(prefix, count)?;
    await_kernel()?;
    let added = all(&sandboxes, |s| exec(plugin, "ADD", s, None))?;
    let pairs: Vec<(&Sandbox, &Value)> =
        sandboxes.iter().zip(added.iter().map(|(_, v)| v)).collect();
    let deleted = all(&pairs, |(s, v)| exec(plugin, "DEL", s, Some(v)))?;
    wait_gone()?;
    Sandbox::remove_all(&sandboxes)?;
    Ok(added
        .iter()
        .zip(&deleted)
        .map(|((a, _), (d, _))| (*a, *d))
        .collect())
}

/// Runs one call for each item, all released by one barrier. Times count from the release: with more calls than
/// processors, some begin when others are done.
fn all<T: Sync>(
    items: &[T],
    call: impl Fn(&T) -> Result<(Duration, Value)> + Sync,
) -> Result<Vec<(Duration, Value)>> {
    let barrier = Barrier::new(items.len());
    let start = OnceLock::new();
    let (barrier, call, start) = (&barrier, &call, &start);
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .iter()
            .map(|item| {
                scope.spawn(move || {
                    barrier.wait();
                    let start = start.get_or_init(Instant::now);
                    let (_, answer) = call(item)?;
                    Ok((start.elapsed(), answer))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().map_err(|_| anyhow!("a runner thread panicked"))?)
            .collect()
    })
}
