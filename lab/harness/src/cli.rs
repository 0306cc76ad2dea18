//! Commands of `tombolo-lab`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::kubeapi::{Api, text};
use crate::node::in_netns;
use crate::state::Lab;
use crate::topology::{Runtime, Topology};
use crate::{check, demo, node, pods, probe, runtime_bench, soak, torture, up};

/// A VPC, a Kubernetes API and nodes on one machine.
#[derive(Debug, Parser)]
#[command(name = "tombolo-lab", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a lab up.
    Up {
        /// Topology file (YAML); the flags below are ignored with it.
        #[arg(short, long)]
        file: Option<PathBuf>,
        /// Name of the lab.
        #[arg(long, default_value = "lab")]
        name: String,
        /// Number of nodes.
        #[arg(long, default_value_t = 2)]
        nodes: usize,
        /// Instance type of the nodes.
        #[arg(long, default_value = "m5.large")]
        instance_type: String,
        /// Number of plain VMs.
        #[arg(long, default_value_t = 1)]
        vms: usize,
        /// What runs pods.
        #[arg(long, value_enum, default_value_t)]
        runtime: Runtime,
        /// Leave everything as it is when bringing up fails.
        #[arg(long)]
        keep: bool,
    },
    /// Nodes, VMs, processes, pods.
    Status {
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// Create objects from a file, or replace those that exist.
    Apply {
        #[arg(long, default_value = "lab")]
        name: String,
        /// YAML, several documents allowed.
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Delete a pod.
    Delete {
        #[arg(long, default_value = "lab")]
        name: String,
        /// Its name (namespace default).
        pod: String,
    },
    /// Run a command in a node, a plain VM, `fabric`, `internet`, or a pod (pod/NAME).
    Exec {
        #[arg(long, default_value = "lab")]
        name: String,
        /// Where.
        place: String,
        /// What.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Print the output of a pod, or the log of a process (vpc, apiserver, operator, agent-NODE, kubelet-NODE).
    Logs {
        #[arg(long, default_value = "lab")]
        name: String,
        /// Whose.
        of: String,
    },
    /// Compare cloud, objects, pool, journal and kernel; exit 1 where they differ.
    Check {
        #[arg(long, default_value = "lab")]
        name: String,
        /// Let changes under way settle for so many seconds.
        #[arg(long, default_value_t = 5)]
        settle: u64,
    },
    /// Write rules, routes, tables, pools and logs of every node to standard output.
    Dump {
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// Take the lab down and leave nothing.
    Down {
        #[arg(long, default_value = "lab")]
        name: String,
    },
    /// The main job from end to end, with tables.
    Demo {
        /// Leave the lab up at the end.
        #[arg(long)]
        keep: bool,
    },
    /// Random steps, good and bad, on a lab of their own; the invariant must hold whenever it is left in peace.
    Torture(torture::Args),
    /// Thousands of ADDs and DELs on one node; nothing may grow.
    Soak(soak::Args),
    /// How long containerd takes for sandboxes with Tombolo, beside Debian's ptp and portmap, taking turns.
    RuntimeBench(runtime_bench::Args),
    /// The simulated VPC by itself.
    Vpc(tombolo_lab_vpc::Args),
    /// The small API server by itself.
    Apiserver(tombolo_lab_apiserver::Args),
    /// The kubelet stand-in (inside a node).
    Kubelet(tombolo_lab_runner::KubeletArgs),
    /// Connection probes.
    Probe {
        #[command(subcommand)]
        command: probe::Args,
    },
    /// Adds and deletes the soak's pods (inside a node).
    #[command(hide = true)]
    SoakWorker {
        /// Pods at a time.
        #[arg(long)]
        lanes: usize,
    },
    /// Keeps a node's namespaces (inside them).
    #[command(hide = true)]
    NodeHolder {
        /// Host name.
        hostname: String,
    },
}

/// Runs one command.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        // These must stay without threads of a runtime.
        Command::NodeHolder { hostname } => node::hold(&hostname),
        Command::Probe { command } => probe::run(command),
        Command::SoakWorker { lanes } => soak::worker::run(lanes),
        other => {
            tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .with_env_filter(
                    tracing_subscriber::EnvFilter::try_from_default_env()
                        .unwrap_or_else(|_| "info".into()),
                )
                .init();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("start the runtime")?;
            runtime.block_on(run_async(other))
        }
    }
}

async fn run_async(command: Command) -> Result<()> {
    match command {
        Command::Up {
            file,
            name,
            nodes,
            instance_type,
            vms,
            runtime,
            keep,
        } => {
            let topology = match file {
                Some(path) => {
                    let yaml = std::fs::read_to_string(&path)
                        .with_context(|| format!("read {}", path.display()))?;
                    serde_norway::from_str(&yaml)
                        .with_context(|| format!("topology {}", path.display()))?
                }
                None => Topology {
                    runtime,
                    ..Topology::with(&name, nodes, &instance_type, vms)
                },
            };
            let lab = up::up(&topology, keep, |line| eprintln!("{line}")).await?;
            println!(
                "lab {} is up; export KUBECONFIG={}",
                lab.topology.name,
                lab.dir().join("kubeconfig").display()
            );
            Ok(())
        }
        Command::Status { name } => status(&Lab::load(&name)?).await,
        Command::Apply { name, file } => apply(&Lab::load(&name)?, &file).await,
        Command::Delete { name, pod } => {
            pods::delete(&Api::new(&Lab::load(&name)?.api_url)?, &pod).await
        }
        Command::Exec {
            name,
            place,
            command,
        } => exec(&Lab::load(&name)?, &place, &command).await,
        Command::Logs { name, of } => logs(&Lab::load(&name)?, &of).await,
        Command::Check { name, settle } => {
            let lab = Lab::load(&name)?;
            let violations = check::settle(&lab, Duration::from_secs(settle)).await?;
            for violation in &violations {
                println!("{violation}");
            }
            if violations.is_empty() {
                println!("cloud == objects == pool == journal == kernel: holds");
                return Ok(());
            }
            bail!("{} violations", violations.len())
        }
        Command::Dump { name } => dump(&Lab::load(&name)?),
        Command::Down { name } => up::down(&Lab::load(&name)?),
        Command::Demo { keep } => demo::run(keep).await,
        Command::Torture(args) => torture::command(args).await,
        Command::Soak(args) => soak::command(args).await,
        Command::RuntimeBench(args) => runtime_bench::command(args).await,
        Command::Vpc(args) => tombolo_lab_vpc::run(args).await,
        Command::Apiserver(args) => tombolo_lab_apiserver::run(args).await,
        Command::Kubelet(args) => tombolo_lab_runner::run_kubelet(args).await,
        Command::Probe { .. } | Command::SoakWorker { .. } | Command::NodeHolder { .. } => {
            bail!("handled without a runtime")
        }
    }
}

async fn status(lab: &Lab) -> Result<()> {
    let mut table = comfy_table::Table::new();
    table.set_header(["What", "Name", "State", "Where"]);
    let state = |alive: bool| if alive { "running" } else { "ENDED" };
    for process in &lab.services {
        table.add_row([
            "service",
            &process.name,
            state(process.alive()),
            &format!("pid {}", process.pid),
        ]);
    }
    for vm in &lab.vms {
        let addresses: Vec<String> = vm.addresses.iter().map(ToString::to_string).collect();
        table.add_row(["vm", &vm.name, "running", &addresses.join(" ")]);
    }
    for node in &lab.nodes {
        let parts = [("agent", &node.agent), ("kubelet", &node.kubelet)];
        let parts = parts.map(|(n, p)| {
            format!(
                "{n} {}",
                state(p.as_ref().is_some_and(crate::process::Process::alive))
            )
        });
        table.add_row([
            "node",
            &node.name,
            &parts.join(", "),
            &format!("{} {}", node.instance, node.address4),
        ]);
    }
    for (name, pod) in pods::running(&Api::new(&lab.api_url)?).await? {
        let addresses: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        table.add_row([
            "pod",
            &name,
            "Running",
            &format!("{} {}", pod.node, addresses.join(" ")),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Where an object of this kind lives. Only kinds that a lab user applies.
fn collection(object: &Value) -> Result<String> {
    let namespace = match text(object, "/metadata/namespace") {
        n if n.is_empty() => "default".to_owned(),
        n => n,
    };
    let kind = text(object, "/kind");
    Ok(match kind.as_str() {
        "Pod" => format!("/api/v1/namespaces/{namespace}/pods"),
        "Node" => "/api/v1/nodes".to_owned(),
        "Namespace" => "/api/v1/namespaces".to_owned(),
        "NetworkProfile" => "/apis/tombolo.dev/v1alpha1/networkprofiles".to_owned(),
        _ => bail!("kind {kind:?} cannot be applied here; use kubectl"),
    })
}

async fn apply(lab: &Lab, file: &std::path::Path) -> Result<()> {
    use serde::Deserialize as _;
    let api = Api::new(&lab.api_url)?;
    let yaml = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    for document in serde_norway::Deserializer::from_str(&yaml) {
        let object =
            Value::deserialize(document).with_context(|| format!("decode {}", file.display()))?;
        let path = collection(&object)?;
        let name = text(&object, "/metadata/name");
        if api.find(&format!("{path}/{name}")).await?.is_some() {
            api.merge(&format!("{path}/{name}"), &object).await?;
            println!("{} {name} changed", text(&object, "/kind"));
        } else {
            api.create(&path, &object).await?;
            println!("{} {name} created", text(&object, "/kind"));
        }
    }
    Ok(())
}

async fn exec(lab: &Lab, place: &str, command: &[String]) -> Result<()> {
    let (program, args) = command.split_first().context("no command")?;
    let mut process = if let Some(pod) = place.strip_prefix("pod/") {
        let pods = pods::running(&Api::new(&lab.api_url)?).await?;
        let pod = pods
            .get(pod)
            .with_context(|| format!("no running pod {pod:?}"))?;
        in_netns(&pods::netns(lab, pod)?.to_string_lossy(), program)
    } else if let Ok(node) = lab.node(place) {
        node.command(program)
    } else if place == "fabric" || place == "internet" {
        let short = if place == "fabric" { "fabric" } else { "inet" };
        in_netns(
            &format!("/run/netns/tl-{}-{short}", lab.topology.name),
            program,
        )
    } else {
        in_netns(&lab.vm(place)?.netns, program)
    };
    let status = process
        .args(args)
        .status()
        .with_context(|| format!("start {program}"))?;
    std::process::exit(status.code().unwrap_or(1))
}

async fn logs(lab: &Lab, of: &str) -> Result<()> {
    let log = lab.log(of);
    if log.exists() {
        print!(
            "{}",
            std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?
        );
        return Ok(());
    }
    let api = Api::new(&lab.api_url)?;
    let pod = api
        .find(&format!("/api/v1/namespaces/default/pods/{of}"))
        .await?
        .with_context(|| format!("no process and no pod {of:?}"))?;
    let node = lab.node(&text(&pod, "/spec/nodeName"))?;
    let dir = node.path("/run/tombolo-kubelet/logs");
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("default_{of}_"))
        {
            print!(
                "{}",
                std::fs::read_to_string(entry.path())
                    .with_context(|| format!("read {}", entry.path().display()))?
            );
        }
    }
    Ok(())
}

fn dump(lab: &Lab) -> Result<()> {
    for node in &lab.nodes {
        for command in [
            &["ip", "-d", "address"][..],
            &["ip", "-4", "rule"],
            &["ip", "-6", "rule"],
            &["ip", "-4", "route", "show", "table", "all"],
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "neigh"],
            &["nft", "list", "ruleset"],
        ] {
            println!("=== {}: {}", node.name, command.join(" "));
            let (program, args) = command.split_first().context("no command")?;
            let mut process = in_netns(&node.netns(), program);
            process.args(args);
            match node::output(process) {
                Ok(text) => print!("{text}"),
                Err(error) => println!("{error:#}"),
            }
        }
    }
    print!("{}", up::tails(lab));
    Ok(())
}
