//! HTTP as a user of a pod or Service sees it: from inside any network namespace, one connection a request.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::image::WHO_PATH;

/// Longest time of one request.
const BOUND: Duration = Duration::from_secs(3);

/// What a test pod answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Name of the pod that answered.
    pub pod: String,
    /// Who asked, as the pod saw it.
    pub client: IpAddr,
}

/// Runs something on a thread that has entered a network namespace, and that ends with it.
pub fn inside<T: Send + 'static>(
    netns: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let name = netns.to_owned();
    let thread = thread::spawn(move || {
        enter(&name)?;
        work()
    });
    thread
        .join()
        .map_err(|_| anyhow!("the thread in {netns} panicked"))?
}

fn enter(netns: &str) -> Result<()> {
    let file = File::open(netns).with_context(|| format!("open {netns}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter {netns}"))
}

/// The body of an answer, asked for from the namespace that we are in.
fn get(to: SocketAddr, path: &str) -> Result<String> {
    let mut stream =
        TcpStream::connect_timeout(&to, BOUND).with_context(|| format!("connect to {to}"))?;
    stream
        .set_read_timeout(Some(BOUND))
        .context("set the bound")?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n").as_bytes())
        .with_context(|| format!("write to {to}"))?;
    let mut reply = String::new();
    stream
        .read_to_string(&mut reply)
        .with_context(|| format!("read from {to}"))?;
    let (head, body) = reply
        .split_once("\r\n\r\n")
        .with_context(|| format!("no header from {to}: {reply:?}"))?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{to} answers {head:?}");
    }
    Ok(body.to_owned())
}

fn ask(to: SocketAddr) -> Result<Who> {
    parse(&get(to, WHO_PATH)?).with_context(|| format!("answer of {to}"))
}

fn parse(body: &str) -> Result<Who> {
    let (pod, client) = body
        .trim()
        .split_once(' ')
        .with_context(|| format!("{body:?}"))?;
    let client = client.trim_start_matches('[').trim_end_matches(']');
    let client: IpAddr = client
        .parse()
        .with_context(|| format!("address of the client: {client:?}"))?;
    Ok(Who {
        pod: pod.to_owned(),
        client: client.to_canonical(),
    })
}

/// JSON from a program that listens inside a network namespace.
pub fn json(netns: &str, to: SocketAddr, path: &'static str) -> Result<serde_json::Value> {
    let body =
        inside(netns, move || get(to, path)).with_context(|| format!("{path} in {netns}"))?;
    serde_json::from_str(&body).with_context(|| format!("{path} in {netns}: {body:.200}"))
}

/// Asks once, from a network namespace.
pub fn who(netns: &str, to: SocketAddr) -> Result<Who> {
    inside(netns, move || ask(to)).with_context(|| format!("from {netns}"))
}

/// Requests that go on until they are stopped, from one namespace to one address.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Outcome>>,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub requests: u64,
    /// Of every failed one when, in milliseconds since the beginning, and why.
    pub failed: Vec<(u128, String)>,
    /// The slowest one.
    pub longest: Duration,
}

impl Traffic {
    /// Starts; `pause` lies between two requests.
    pub fn start(netns: &str, to: SocketAddr, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (name, told) = (netns.to_owned(), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            enter(&name)?;
            let begin = Instant::now();
            let mut outcome = Outcome::default();
            while !told.load(Ordering::Relaxed) {
                let sent = Instant::now();
                if let Err(error) = ask(to) {
                    outcome
                        .failed
                        .push((begin.elapsed().as_millis(), format!("{error:#}")));
                }
                outcome.requests += 1;
                outcome.longest = outcome.longest.max(sent.elapsed());
                thread::sleep(pause);
            }
            Ok(outcome)
        });
        Self { stop, thread }
    }

    /// Stops, and tells what became of the requests.
    pub fn stop(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("a thread of requests panicked"))?
    }
}

/// Stops them all; fails if one request failed. Returns how many there were, and the longest.
pub fn none_failed(traffic: Vec<Traffic>) -> Result<(u64, Duration)> {
    let (mut requests, mut failed, mut longest) = (0, Vec::new(), Duration::ZERO);
    for one in traffic {
        let outcome = one.stop()?;
        requests += outcome.requests;
        failed.extend(outcome.failed);
        longest = longest.max(outcome.longest);
    }
    if !failed.is_empty() {
        let shown: Vec<_> = failed.iter().take(5).collect();
        bail!(
            "{} of {requests} requests failed, the first: {shown:?}",
            failed.len()
        );
    }
    if requests == 0 {
        bail!("not one request was made");
    }
    Ok((requests, longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_pod_and_the_client() {
        let who = parse("web-1 [::ffff:10.0.0.9]\n").unwrap();
        assert_eq!(
            who,
            Who {
                pod: "web-1".to_owned(),
                client: "10.0.0.9".parse().unwrap()
            }
        );
        for wrong in ["", "web-1", "web-1 nobody"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
