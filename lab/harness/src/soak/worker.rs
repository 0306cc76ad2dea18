//! Adds and deletes pods as a container runtime does: a new namespace, the shipped plugin, one packet to each address so
//! that the kernel has something to remember, the plugin again, the namespace's end. Some ADDs and DELs come twice, and
//! some namespaces are gone before. Runs inside the node.
//!
//! The two sides talk in lines: `FROM UNTIL` asks for the pods of these numbers, and the answer tells their times.

use std::fmt;
use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tombolo_lab_runner::cni::{NetworkList, Runner, RuntimeConf};
use tombolo_lab_runner::netns::{DIR, NamedNetns};

use crate::state::{Lab, Node};

/// Where nobody listens in a pod.
const DISCARD: u16 = 9;

/// How long ADDs and DELs took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Times {
    /// Half of the ADDs took at most so long.
    pub add_p50: f64,
    /// 99 of 100 ADDs took at most so long.
    pub add_p99: f64,
    /// Half of the DELs took at most so long.
    pub del_p50: f64,
    /// 99 of 100 DELs took at most so long.
    pub del_p99: f64,
    /// The whole round.
    pub all: f64,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} s; ADD p50 {:.1} ms, p99 {:.1} ms; DEL p50 {:.1} ms, p99 {:.1} ms",
            self.all / 1000.0,
            self.add_p50,
            self.add_p99,
            self.del_p50,
            self.del_p99
        )
    }
}

/// The outer side: a running worker.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts one in a node.
    pub fn start(lab: &Lab, node: &Node, lanes: usize) -> Result<Self> {
        let mut command = node.command(lab.topology.binary("tombolo-lab")?);
        command.args(["soak-worker", "--lanes", &lanes.to_string()]);
        let mut child = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the worker")?;
        let stdin = child.stdin.take().context("its standard input")?;
        let stdout = child.stdout.take().context("its standard output")?;
        Ok(Self {
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Lets the pods of these numbers come and go.
    pub async fn round(&mut self, pods: std::ops::Range<usize>) -> Result<Times> {
        let line = format!("{} {}\n", pods.start, pods.end);
        self.stdin.write_all(line.as_bytes()).await?;
        let answer = self.lines.next_line().await?;
        let answer = answer.with_context(|| format!("the worker ended with pods {pods:?}"))?;
        serde_json::from_str(&answer).with_context(|| format!("the worker said {answer:?}"))
    }

    /// Ends it.
    pub async fn end(mut self) -> Result<()> {
        drop(self.stdin);
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the worker ended with {status}");
        }
        Ok(())
    }
}

/// The inner side: `tombolo-lab soak-worker`, until its standard input ends.
pub fn run(lanes: usize) -> Result<()> {
    let list = NetworkList::load_first(Path::new("/run/cni/net.d"))?;
    let list = list.context("no network configuration")?;
    let runner = Runner::new(&["/run/cni/bin".into()]);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (from, until) = line.split_once(' ').context("FROM UNTIL")?;
        let times = round(&runner, &list, from.parse()?..until.parse()?, lanes)?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&times)?)?;
        stdout.flush()?;
    }
    Ok(())
}

fn round(
    runner: &Runner,
    list: &NetworkList,
    pods: std::ops::Range<usize>,
    lanes: usize,
) -> Result<Times> {
    let begin = Instant::now();
    let next = AtomicUsize::new(pods.start);
    let lane = || -> Result<Vec<(Duration, Duration)>> {
        let mut times = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= pods.end {
                return Ok(times);
            }
            times.push(pod(runner, list, number).with_context(|| format!("pod {number}"))?);
        }
    };
    let times = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let all = lanes.into_iter().map(|lane| lane.join());
        all.map(|lane| lane.unwrap_or_else(|_| bail!("a lane panicked")))
            .collect::<Result<Vec<_>>>()
    })?;
    let (adds, dels): (Vec<_>, Vec<_>) = times.into_iter().flatten().unzip();
    let ([add_p50, add_p99], [del_p50, del_p99]) = (percentiles(adds), percentiles(dels));
    let all = begin.elapsed().as_secs_f64() * 1000.0;
    Ok(Times {
        add_p50,
        add_p99,
        del_p50,
        del_p99,
        all,
    })
}

/// The 50th and the 99th, in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| {
        let at = times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
        at.map_or(0.0, Duration::as_secs_f64) * 1000.0
    })
}

/// One pod's life. Its times.
fn pod(runner: &Runner, list: &NetworkList, number: usize) -> Result<(Duration, Duration)> {
    let name = format!("soak-{number:06}");
    let netns = NamedNetns::create(Path::new(DIR), &name)?;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let conf = RuntimeConf {
        container_id: name.clone(),
        netns: netns.path().to_string_lossy().into_owned(),
        ifname: "eth0".to_owned(),
        args: vec![
            pair("IgnoreUnknown", "1"),
            pair("K8S_POD_NAMESPACE", "default"),
            pair("K8S_POD_NAME", &name),
            pair("K8S_POD_INFRA_CONTAINER_ID", &name),
            pair("K8S_POD_UID", &name),
        ],
        ..RuntimeConf::default()
    };
    let begin = Instant::now();
    let result = runner.add(list, &conf, None).context("ADD")?;
    let added = begin.elapsed();
    if number.is_multiple_of(11) {
        let again = runner.add(list, &conf, None).context("ADD again")?;
        ensure!(again == result, "ADD again: {again}, not {result}");
    }
    for ip in addresses(&result)? {
        speak_to(ip).with_context(|| format!("a packet to {ip}"))?;
    }
    // What runtimes do, too: a namespace that is gone before DEL, and DEL once more.
    let mut conf = conf;
    if number.is_multiple_of(13) {
        netns.remove()?;
        conf.netns.clear();
    }
    let begin = Instant::now();
    runner.del(list, &conf).context("DEL")?;
    let deleted = begin.elapsed();
    if number.is_multiple_of(7) {
        runner.del(list, &conf).context("DEL again")?;
    }
    netns.remove()?;
    Ok((added, deleted))
}

fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result.get("ips").and_then(Value::as_array);
    let ips = ips.with_context(|| format!("no addresses in {result}"))?;
    let parse = |ip: &Value| {
        let text = ip.get("address").and_then(Value::as_str)?;
        text.split('/').next()?.parse().ok()
    };
    ips.iter()
        .map(|ip| parse(ip).with_context(|| format!("address {ip}")))
        .collect()
}

/// One datagram, of which the node's connection tracking has an entry until somebody removes it.
fn speak_to(ip: IpAddr) -> std::io::Result<()> {
    let any: IpAddr = if ip.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.send_to(b"soak", (ip, DISCARD)).map(drop)
}
