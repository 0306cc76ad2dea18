//! The command line. It reads API objects, and puts on a node what runtimes look for; what a node's kernel holds is asked on
//! the node, by other tools.
//!
//! | file | holds |
//! |---|---|
//! | `cluster.rs` | reading objects, each by itself, so that a broken one hides no other |
//! | `status.rs` `ipam.rs` `eni.rs` | one command each: rows from objects |
//! | `max_pods.rs` | what a node can address |
//! | `node.rs` | install and uninstall, on the node |
//! | `output.rs` | tables, JSON, YAML |
//! | `lab.rs` | hands over to `tombolo-lab` |

mod cluster;
mod eni;
mod ipam;
mod lab;
mod max_pods;
mod node;
mod output;
mod status;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use cluster::Cluster;
use output::Format;

/// Pods with VPC addresses: what the cluster has, and a lab to try it in.
#[derive(Debug, Parser)]
#[command(name = "tombolo", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// For tests: end or stop the process before or after a write, for example `plugin.name.before`. No variable sets it.
    #[arg(long, hide = true)]
    failpoint: Vec<tombolo_failpoint::Order>,
}

/// Failpoints of this program.
const TABLES: [tombolo_failpoint::Table; 1] = [tombolo_cni_dir::INSTALLING];

#[derive(Debug, Subcommand)]
enum Command {
    /// One line for each node: NICs, addresses, readiness.
    Status(Query),
    /// Addresses for pods: by NIC, or one by one.
    Ipam {
        #[command(flatten)]
        query: Query,
        /// One line for each address.
        #[arg(short, long)]
        addresses: bool,
    },
    /// Cloud NICs that this cluster made or uses.
    Eni(Query),
    /// How many pods a node can address: a value for the kubelet's maxPods.
    MaxPods(max_pods::Args),
    /// Puts the plugin where this node's runtime looks for it.
    Install(node::Install),
    /// Removes what install and the agent put on this node, kernel state included, and gives back what was taken over.
    Uninstall(node::Uninstall),
    /// A VPC, a Kubernetes API and nodes on this machine: runs `tombolo-lab` with the same arguments.
    #[command(disable_help_flag = true)]
    Lab(lab::Args),
}

/// What most commands take.
#[derive(Debug, Args)]
struct Query {
    /// Of this node only.
    #[arg(long)]
    node: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Query {
    fn wants(&self, node: &str) -> bool {
        self.node.as_ref().is_none_or(|wanted| wanted == node)
    }
}

fn main() -> ExitCode {
    if tombolo_failpoint::list_if_asked(std::env::args_os().skip(1), &TABLES) {
        return ExitCode::SUCCESS;
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tombolo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    tombolo_failpoint::arm(cli.failpoint, &TABLES)?;
    match cli.command {
        Command::Lab(args) => lab::run(args),
        Command::Install(args) => node::install(&args),
        Command::Uninstall(args) => node::uninstall(&args),
        Command::MaxPods(args) if args.needs_no_cluster() => max_pods::of_limits(&args),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the runtime")?;
            runtime.block_on(read(command))
        }
    }
}

/// The commands that read the cluster.
async fn read(command: Command) -> anyhow::Result<()> {
    let cluster = Cluster::connect().await?;
    match command {
        Command::Status(query) => status::run(&cluster, &query).await,
        Command::Ipam { query, addresses } => ipam::run(&cluster, &query, addresses).await,
        Command::Eni(query) => eni::run(&cluster, &query).await,
        Command::MaxPods(args) => max_pods::of_node(&cluster, &args).await,
        Command::Lab(args) => lab::run(args),
        Command::Install(args) => node::install(&args),
        Command::Uninstall(args) => node::uninstall(&args),
    }
}
