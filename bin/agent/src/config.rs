//! Command line and environment, validated once. Every part gets what it needs from here and reads nothing else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tombolo_cni_dir::Conflist;

/// The node agent of Tombolo: address pool, pod wiring, kernel state.
#[derive(Debug, Parser)]
#[command(name = "tombolo-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// For tests: end or stop the process before or after a write, for example `add.create-link.before`. No variable sets it.
    #[arg(long, global = true, hide = true)]
    pub failpoint: Vec<tombolo_failpoint::Order>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves this node until a signal ends it. The end of the agent changes nothing for running pods.
    Run(Box<RunArgs>),
    /// Removes all kernel state of Tombolo from this node (pods lose their network) and restores kernel settings.
    Uninstall(UninstallArgs),
}

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Name of this node's Node and NetResourceSet objects.
    #[arg(long, env = "TOMBOLO_NODE_NAME", default_value = "")]
    pub node_name: String,
    /// Directory of journal, cached specification and socket. Must not outlive a reboot.
    #[arg(long, env = "TOMBOLO_RUN_DIR", default_value = "/run/tombolo")]
    pub run_dir: PathBuf,
    /// Socket for the plugin; `<run-dir>/agent.sock` when absent.
    #[arg(long, env = "TOMBOLO_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Address of /metrics, /healthz, /readyz and /debug/state. `none` serves none.
    #[arg(long, env = "TOMBOLO_HTTP", default_value = "127.0.0.1:9810")]
    pub http: String,
    /// Address of /metrics, /healthz and /readyz alone, for others than this node. `none` serves none.
    #[arg(long, env = "TOMBOLO_METRICS_LISTEN", default_value = "none")]
    pub metrics_listen: String,
    /// Takes NICs and addresses from this file (JSON of a NetResourceSet's spec) and uses no Kubernetes at all. Read
    /// again whenever it changes.
    #[arg(long, env = "TOMBOLO_NRS_FILE")]
    pub nrs_file: Option<PathBuf>,
    /// URL of the API server, without credentials; absent: kubeconfig or the pod's service account.
    #[arg(long, env = "TOMBOLO_API_SERVER")]
    pub api_server: Option<String>,
    /// Keeps the network configuration in this directory of the runtime, from the moment that pods can be attached. Absent:
    /// somebody else does.
    #[arg(long, env = "TOMBOLO_CNI_CONF_DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Name of the network in it.
    #[arg(long, env = "TOMBOLO_CNI_NETWORK_NAME", default_value = "tombolo")]
    pub cni_network_name: String,
    /// Renames configurations of others that runtimes would take before ours. `tombolo uninstall` renames them back.
    #[arg(long, env = "TOMBOLO_CNI_TAKE_OVER")]
    pub cni_take_over: bool,
    /// Most pods of this node (the kubelet's maxPods): bounds how many addresses it asks for.
    #[arg(long, env = "TOMBOLO_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
    /// Milliseconds between two complete comparisons with the kernel. Changes are repaired when the kernel reports them,
    /// whatever this says.
    #[arg(long, env = "TOMBOLO_RESYNC_MS", default_value_t = 60_000)]
    pub resync_ms: u64,
    /// Milliseconds that a notification waits for others before the comparison.
    #[arg(long, env = "TOMBOLO_DEBOUNCE_MS", default_value_t = 2)]
    pub debounce_ms: u64,
    /// Milliseconds that changes wait for others before the status is written.
    #[arg(long, env = "TOMBOLO_STATUS_DEBOUNCE_MS", default_value_t = 200)]
    pub status_debounce_ms: u64,
    /// Which spans and events are logged (`info`, `tombolo_agent=debug`, …).
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info")]
    pub log: String,
    /// How they are written to standard error.
    #[arg(long, env = "TOMBOLO_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Args, Clone, Debug)]
pub struct UninstallArgs {
    /// The directory that `run` used.
    #[arg(long, env = "TOMBOLO_RUN_DIR", default_value = "/run/tombolo")]
    pub run_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What `run` works with.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: Source,
    pub run_dir: PathBuf,
    pub socket: PathBuf,
    pub http: Option<SocketAddr>,
    pub metrics_listen: Option<SocketAddr>,
    pub cni: Option<Cni>,
    pub max_pods: u32,
    pub resync: Duration,
    pub debounce: Duration,
    pub status_debounce: Duration,
}

/// What the runtime is to read.
#[derive(Clone, Debug)]
pub struct Cni {
    pub conf_dir: PathBuf,
    pub conflist: Conflist,
    /// Whether what stands before ours is renamed.
    pub take_over: bool,
}

/// Where NICs and addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Cluster {
        node_name: String,
        api_server: Option<http::Uri>,
    },
}

/// A setting is malformed or contradicts another.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{field} {value:?} {problem}")]
pub struct InvalidConfig {
    pub field: &'static str,
    pub value: String,
    pub problem: &'static str,
}

impl TryFrom<&RunArgs> for Config {
    type Error = InvalidConfig;

    fn try_from(args: &RunArgs) -> Result<Self, InvalidConfig> {
        positive("resync-ms", args.resync_ms)?;
        positive("status-debounce-ms", args.status_debounce_ms)?;
        positive("max-pods", u64::from(args.max_pods))?;
        if !args.run_dir.is_absolute() {
            let value = args.run_dir.to_string_lossy();
            return Err(invalid("run-dir", &value, "must be absolute"));
        }
        let socket = args.socket.clone();
        let socket = socket.unwrap_or_else(|| args.run_dir.join("agent.sock"));
        Ok(Self {
            source: source(args)?,
            cni: cni(args, &socket)?,
            socket,
            run_dir: args.run_dir.clone(),
            http: listen("http", &args.http)?,
            metrics_listen: listen("metrics-listen", &args.metrics_listen)?,
            max_pods: args.max_pods,
            resync: Duration::from_millis(args.resync_ms),
            debounce: Duration::from_millis(args.debounce_ms),
            status_debounce: Duration::from_millis(args.status_debounce_ms),
        })
    }
}

fn listen(field: &'static str, text: &str) -> Result<Option<SocketAddr>, InvalidConfig> {
    match text {
        "none" => Ok(None),
        _ => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(invalid(
                field,
                text,
                "must be an address with port, or `none`",
            )),
        },
    }
}

fn cni(args: &RunArgs, socket: &Path) -> Result<Option<Cni>, InvalidConfig> {
    let Some(conf_dir) = args.cni_conf_dir.clone() else {
        return Ok(None);
    };
    if !conf_dir.is_absolute() {
        let value = conf_dir.to_string_lossy();
        return Err(invalid("cni-conf-dir", &value, "must be absolute"));
    }
    let name = &args.cni_network_name;
    let must = "must begin with a letter or a digit and go on with those, '.', '_' and '-'";
    let conflist = Conflist::new(name, socket);
    Ok(Some(Cni {
        conf_dir,
        conflist: conflist.map_err(|_| invalid("cni-network-name", name, must))?,
        take_over: args.cni_take_over,
    }))
}

fn source(args: &RunArgs) -> Result<Source, InvalidConfig> {
    if let Some(file) = &args.nrs_file {
        if let Some(url) = &args.api_server {
            return Err(invalid(
                "api-server",
                url,
                "contradicts --nrs-file: one source of addresses, not two",
            ));
        }
        return Ok(Source::File(file.clone()));
    }
    if !is_dns_name(&args.node_name) {
        let problem = "must be the name of this node's Node object (or give --nrs-file)";
        return Err(invalid("node-name", &args.node_name, problem));
    }
    let parse = |url: &String| {
        let uri: Option<http::Uri> = url.parse().ok();
        uri.filter(|uri| uri.scheme().is_some() && uri.host().is_some())
            .ok_or_else(|| invalid("api-server", url, "must be a URL with scheme and host"))
    };
    let api_server = args.api_server.as_ref().map(parse).transpose()?;
    Ok(Source::Cluster {
        node_name: args.node_name.clone(),
        api_server,
    })
}

/// RFC 1123 subdomain, as Node names are.
fn is_dns_name(name: &str) -> bool {
    let label = |l: &str| {
        let inner = l
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !l.is_empty() && inner && !l.starts_with('-') && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn positive(field: &'static str, value: u64) -> Result<(), InvalidConfig> {
    if value == 0 {
        Err(invalid(field, &value.to_string(), "must be above 0"))
    } else {
        Ok(())
    }
}

fn invalid(field: &'static str, value: &str, problem: &'static str) -> InvalidConfig {
    InvalidConfig {
        field,
        value: value.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, InvalidConfig> {
        let all = ["tombolo-agent", "run"].iter().chain(arguments);
        let Command::Run(args) = Cli::try_parse_from(all).unwrap().command else {
            panic!("not run")
        };
        Config::try_from(args.as_ref())
    }

    #[test]
    fn paths_follow_the_run_directory() {
        let config = parse(&["--nrs-file", "/x.json", "--run-dir", "/tmp/t"]).unwrap();
        assert_eq!(config.socket, PathBuf::from("/tmp/t/agent.sock"));
        assert_eq!(config.source, Source::File(PathBuf::from("/x.json")));
    }

    #[test]
    fn errors_name_the_field() {
        let cases: [(&[&str], &str); 11] = [
            (&[], "node-name"),
            (&["--node-name", "Not_A_Name"], "node-name"),
            (
                &["--node-name", "n1", "--api-server", "nonsense"],
                "api-server",
            ),
            (
                &["--nrs-file", "/x", "--api-server", "http://a"],
                "api-server",
            ),
            (&["--nrs-file", "/x", "--http", "localhost"], "http"),
            (&["--nrs-file", "/x", "--resync-ms", "0"], "resync-ms"),
            (&["--nrs-file", "/x", "--max-pods", "0"], "max-pods"),
            (&["--nrs-file", "/x", "--run-dir", "relative"], "run-dir"),
            (
                &["--nrs-file", "/x", "--metrics-listen", "9812"],
                "metrics-listen",
            ),
            (
                &["--nrs-file", "/x", "--cni-conf-dir", "net.d"],
                "cni-conf-dir",
            ),
            (
                &[
                    "--nrs-file",
                    "/x",
                    "--cni-conf-dir",
                    "/d",
                    "--cni-network-name",
                    "a b",
                ],
                "cni-network-name",
            ),
        ];
        for (arguments, field) in cases {
            let error = parse(arguments).unwrap_err();
            assert_eq!(error.field, field);
            assert!(error.to_string().starts_with(&format!("--{field} ")));
        }
    }

    /// Variables are inherited and configuration is kept: what ends the agent must be neither.
    #[test]
    fn a_failpoint_is_an_argument_and_nothing_else() {
        let command = <Cli as clap::CommandFactory>::command();
        let mut commands = vec![&command];
        commands.extend(command.get_subcommands());
        let arguments = commands.iter().flat_map(|command| command.get_arguments());
        let failpoints: Vec<_> = arguments
            .filter(|argument| argument.get_id() == "failpoint")
            .collect();
        assert_eq!(failpoints.len(), 1);
        assert!(failpoints[0].get_env().is_none() && failpoints[0].is_hide_set());
    }
}
