//! tombolo-cni: the CNI plugin. It checks what the runtime says, asks the agent, and puts the answer into CNI's words.
//! It decides nothing, keeps nothing, and starts no process: killed at any point, it leaves only what the agent will
//! undo when it sees the connection end. Where no agent answers, ADD fails with code 11 within its bound, and DEL leaves
//! a note ([`note`]) and succeeds.

mod agent;
mod config;
mod env;
mod error;
#[cfg(test)]
mod fuzz;
mod gc;
mod input;
mod netns;
mod note;
mod ports;
mod result;
mod runtime;
mod steps;
mod trace;
mod version;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;
use tombolo_core::types::AttachmentKey;
use tombolo_rpc::{
    AddRequest, CheckRequest, DelRequest, GcRequest, Key, PROTOCOL, Pod, since_boot,
};

use agent::{AgentError, Patience};
use config::NetConf;
use env::{Command, Invocation};
use error::PluginError;
use netns::{Netns, NetnsError};
use note::Left;
use result::Earlier;
use version::CniVersion;

/// VERSION answers without stdin too; this long it waits for one.
const VERSION_STDIN: Duration = Duration::from_millis(20);
/// A runtime writes the configuration at once and closes; a silence this long means that it never will.
const STDIN: Duration = Duration::from_secs(10);
/// How long ADD waits for an agent that is being restarted or upgraded.
const CONNECT_ADD: Duration = Duration::from_secs(10);
/// DEL leaves a note, and CHECK is repeated by the runtime: they only bridge a quick restart.
const CONNECT_OTHER: Duration = Duration::from_secs(2);
/// STATUS is asked again soon; an agent that listens answers at once.
const CONNECT_STATUS: Duration = Duration::from_millis(300);

/// STATUS in all, from reading to answering: runtimes hold a lock meanwhile, and ask every few seconds.
const STATUS: Duration = Duration::from_millis(900);
/// Of that, for stdin to go on; three times as long in all.
const STATUS_STDIN: Duration = Duration::from_millis(150);

fn main() -> ExitCode {
    match steps::arguments(std::env::args_os().skip(1)) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tombolo-cni: {error}");
            return ExitCode::FAILURE;
        }
    }
    let mut version = None;
    match run(&mut version) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(object)) => print(&object, ExitCode::SUCCESS),
        Err(error) => {
            if let Some(trace) = trace::of_environment(|name| std::env::var_os(name)) {
                eprintln!("tombolo-cni: {trace}: {error}");
            }
            print(&error.object(version), ExitCode::FAILURE)
        }
    }
}

/// The one JSON object on stdout.
fn print(object: &Value, code: ExitCode) -> ExitCode {
    let line = format!("{object}\n");
    let written = steps::ANSWER_PRINT.around(|| std::io::stdout().write_all(line.as_bytes()));
    match written {
        Ok(()) => code,
        Err(error) => {
            eprintln!("tombolo-cni: write to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(version: &mut Option<CniVersion>) -> Result<Option<Value>, PluginError> {
    let Some(invocation) = Invocation::read(|name| std::env::var_os(name))? else {
        let versions = CniVersion::ALL.map(CniVersion::text).join(", ");
        eprintln!(
            "tombolo-cni {}: CNI plugin, for CNI {versions}",
            env!("CARGO_PKG_VERSION")
        );
        return Ok(None);
    };
    if invocation.command == Command::Version {
        // Whatever stdin holds, the answer is true: it only chooses the version in which it is given.
        let asked = input::read(VERSION_STDIN)
            .ok()
            .and_then(|stdin| config::version_of(&stdin));
        return Ok(Some(result::of_version(asked)));
    }
    let begun = Instant::now();
    let since_boot = since_boot();
    let status = invocation.command == Command::Status;
    let stdin = input::read(if status { STATUS_STDIN } else { STDIN })?;
    *version = config::version_of(&stdin);
    let conf = NetConf::parse(&stdin, invocation.command)?;
    match invocation.command {
        Command::Add => add(&invocation, conf).map(Some),
        Command::Del => del(&invocation, &conf).map(|()| None),
        Command::Check => check(&invocation, conf).map(|()| None),
        Command::Gc => gc(conf, since_boot).map(|()| None),
        Command::Status => status_of(&conf, STATUS.saturating_sub(begun.elapsed())).map(|()| None),
        // Answered above.
        Command::Version => Ok(Some(result::of_version(*version))),
    }
}

fn add(invocation: &Invocation, conf: NetConf) -> Result<Value, PluginError> {
    let Invocation {
        ifname,
        netns: path,
        ..
    } = invocation;
    let key = rpc_key(key(invocation, &conf)?);
    let pod = invocation.pod()?;
    let patience = patience(&conf, CONNECT_ADD);
    let mut earlier = Earlier::parse(conf.prev_result, ifname, path)?;
    for what in conf.asked.unheard {
        eprintln!("tombolo-cni: {what} is not supported and ignored");
    }
    if let Some(dns) = conf.asked.dns {
        earlier.set_dns(dns);
    }
    let netns = Netns::open(path, invocation.netns_override)?;
    let request = AddRequest {
        protocol: PROTOCOL,
        key: Some(key),
        netns: Some(netns.reference()),
        pod: Some(Pod {
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
        }),
        timeout_ms: 0,
        host_ports: conf.asked.port_mappings,
    };
    let made = block_on(agent::add(&patience, request))??;
    drop(netns);
    Ok(result::of_add(conf.version, earlier, &made, ifname, path))
}

fn del(invocation: &Invocation, conf: &NetConf) -> Result<(), PluginError> {
    let key = key(invocation, conf)?;
    let netns = netns_of_del(invocation)?;
    let request = DelRequest {
        protocol: PROTOCOL,
        key: Some(rpc_key(key.clone())),
        netns: netns.as_ref().map(Netns::reference),
    };
    match block_on(agent::del(&patience(conf, CONNECT_OTHER), request))? {
        Err(silence) if silence.is_silence() => leave_note(conf, key, silence),
        outcome => Ok(outcome?),
    }
}

/// DEL without an agent.
fn leave_note(conf: &NetConf, key: AttachmentKey, silence: AgentError) -> Result<(), PluginError> {
    match note::leave(&conf.agent_socket, key) {
        Ok(Left::Note) => eprintln!("tombolo-cni: {silence}: left a note for it"),
        Ok(Left::NoDirectory) if silence.nobody_listens() => {
            eprintln!("tombolo-cni: {silence}, and none was ever here: nothing to detach");
        }
        Ok(Left::NoDirectory) => return Err(silence.into()),
        Err(source) => {
            return Err(PluginError::Note {
                silence: Box::new(silence),
                source,
            });
        }
    }
    Ok(())
}

fn check(invocation: &Invocation, conf: NetConf) -> Result<(), PluginError> {
    let Invocation {
        ifname,
        netns: path,
        ..
    } = invocation;
    let key = rpc_key(key(invocation, &conf)?);
    let prev = conf.prev_result.as_ref();
    let addresses = prev.map_or(Ok(Vec::new()), |prev| {
        result::addresses_of(prev, ifname, path)
    })?;
    let netns = Netns::open(path, invocation.netns_override)?;
    let request = CheckRequest {
        protocol: PROTOCOL,
        key: Some(key),
        netns: Some(netns.reference()),
        addresses,
    };
    block_on(agent::check(&patience(&conf, CONNECT_OTHER), request))??;
    Ok(())
}

/// Without an agent nothing is detached and nothing is lost: the runtime asks again.
fn gc(conf: NetConf, begun: u64) -> Result<(), PluginError> {
    let patience = patience(&conf, CONNECT_OTHER);
    let request = GcRequest {
        protocol: PROTOCOL,
        network: conf.name,
        valid: conf.valid,
        begun,
    };
    Ok(block_on(agent::gc(&patience, request))??)
}

/// Answers within `left`, whatever the agent does.
fn status_of(conf: &NetConf, left: Duration) -> Result<(), PluginError> {
    let patience = Patience {
        socket: conf.agent_socket.clone(),
        overall: left,
        connect: CONNECT_STATUS.min(left),
    };
    let unavailable = |traffic_affected, source| PluginError::Unavailable {
        traffic_affected,
        source,
    };
    let reply = block_on(agent::status(&patience))?.map_err(|source| unavailable(false, source))?;
    match reply.failure {
        None => Ok(()),
        Some(failure) => {
            let source = AgentError::Refused(failure);
            Err(unavailable(reply.traffic_affected, source))
        }
    }
}

/// DEL works by key; the namespace only helps. One that is gone, was never one, or is by now the plugin's own (a
/// process id used again) is as good as none, and must not stand in the way of the release.
fn netns_of_del(invocation: &Invocation) -> Result<Option<Netns>, PluginError> {
    if invocation.netns.is_empty() {
        return Ok(None);
    }
    match Netns::open(&invocation.netns, invocation.netns_override) {
        Ok(netns) => Ok(Some(netns)),
        Err(
            NetnsError::Open { .. } | NetnsError::NotANamespace { .. } | NetnsError::Own { .. },
        ) => Ok(None),
        Err(error @ NetnsError::Examine { .. }) => Err(error.into()),
    }
}

fn key(invocation: &Invocation, conf: &NetConf) -> Result<AttachmentKey, PluginError> {
    let Invocation {
        container_id,
        ifname,
        ..
    } = invocation;
    Ok(AttachmentKey::new(&conf.name, container_id, ifname)?)
}

fn rpc_key(key: AttachmentKey) -> Key {
    let AttachmentKey {
        network,
        container_id,
        ifname,
    } = key;
    Key {
        network,
        container_id,
        ifname,
    }
}

fn patience(conf: &NetConf, connect: Duration) -> Patience {
    Patience {
        socket: conf.agent_socket.clone(),
        overall: conf.timeout,
        connect: connect.min(conf.timeout),
    }
}

/// Runs on this thread; no other is ever started.
fn block_on<F: Future>(future: F) -> Result<F::Output, PluginError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(PluginError::Runtime)?;
    Ok(runtime.block_on(future))
}
