//! `tombolo-lab vpc …`.

mod commands;
mod table;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::AdminClient;
use crate::config::Config;
use crate::knobs::Knob;
use crate::server::{self, Options, Server};

/// A simulated VPC: real packets between network namespaces, and the cloud's API.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The lab's name: lower-case letters and digits.
    #[arg(long, global = true, env = "TOMBOLO_LAB", default_value = "main")]
    pub lab: String,
    /// State directory [default: /run/tombolo-lab/<lab>].
    #[arg(long, global = true)]
    pub state: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a VPC in the foreground until SIGINT, SIGTERM or `down`; then remove all of it.
    Serve {
        /// `vpc.yaml` [default: two subnets in two zones].
        #[arg(long)]
        config: Option<PathBuf>,
        /// API only, no namespaces.
        #[arg(long)]
        no_fabric: bool,
    },
    /// Subnets, instances and network interfaces.
    Status {
        /// Format.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Instances.
    #[command(subcommand)]
    Vm(VmCommand),
    /// Network interfaces.
    #[command(subcommand)]
    Nic(NicCommand),
    /// Capture at a network interface: its id, or <instance>:eth<index>.
    Capture {
        /// The network interface.
        nic: String,
        /// File to write.
        #[arg(short = 'w', long = "write")]
        write: PathBuf,
        /// tcpdump filter.
        filter: Vec<String>,
    },
    /// Packets that the fabric dropped, per network interface.
    SpoofCounters {
        /// Set them to 0 afterwards.
        #[arg(long)]
        reset: bool,
    },
    /// Cloud calls so far, per verb.
    Calls {
        /// Set them to 0 afterwards.
        #[arg(long)]
        reset: bool,
    },
    /// How the cloud misbehaves.
    #[command(subcommand)]
    Knob(KnobCommand),
    /// What other people do behind the product's back.
    #[command(subcommand)]
    Meddle(MeddleCommand),
    /// Stop the VPC and remove all of it, also what a killed one left.
    Down,
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Instances.
#[derive(Clone, Debug, Subcommand)]
pub enum VmCommand {
    /// Start one.
    Run {
        /// Its name.
        name: String,
        /// Instance type.
        #[arg(long = "type", default_value = "t3.medium")]
        instance_type: String,
        /// Subnet of its primary network interface.
        #[arg(long, default_value = "subnet-a")]
        subnet: String,
        /// Path of its network namespace [default: made by the VPC].
        #[arg(long)]
        netns: Option<String>,
    },
    /// End one.
    Terminate {
        /// Id or name.
        instance: String,
    },
    /// Show all.
    List {
        /// Format.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Run a program in the network namespace of one.
    Exec {
        /// Id or name.
        instance: String,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

/// Network interfaces.
#[derive(Clone, Debug, Subcommand)]
pub enum NicCommand {
    /// Show all.
    List {
        /// Format.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Create one.
    Create {
        /// Subnet.
        subnet: String,
        /// Secondary IPv4 addresses.
        #[arg(long, default_value_t = 0)]
        ipv4: u16,
        /// IPv6 addresses.
        #[arg(long, default_value_t = 0)]
        ipv6: u16,
        /// Description.
        #[arg(long, default_value = "")]
        description: String,
        /// Client token.
        #[arg(long)]
        token: Option<String>,
        /// Tags.
        #[arg(long = "tag", value_parser = key_value)]
        tags: Vec<(String, String)>,
    },
    /// Attach one to an instance.
    Attach {
        /// Id.
        nic: String,
        /// Id or name.
        instance: String,
        /// Device index.
        index: u16,
        /// Delete it with the instance.
        #[arg(long)]
        delete_on_termination: bool,
    },
    /// Detach one.
    Detach {
        /// Id.
        nic: String,
    },
    /// Delete one.
    Delete {
        /// Id.
        nic: String,
    },
    /// Give one more addresses.
    Assign {
        /// Id.
        nic: String,
        /// Family: 4 or 6.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=6))]
        family: u8,
        /// How many.
        #[arg(long, default_value_t = 1)]
        count: u16,
    },
    /// Take addresses from one.
    Unassign {
        /// Id.
        nic: String,
        /// Addresses.
        #[arg(required = true)]
        addresses: Vec<std::net::IpAddr>,
    },
    /// Tag one.
    Tag {
        /// Id.
        nic: String,
        /// Tags.
        #[arg(required = true, value_parser = key_value)]
        tags: Vec<(String, String)>,
    },
    /// Change the MTU of one.
    Mtu {
        /// Id.
        nic: String,
        /// Bytes.
        mtu: u32,
    },
}

/// Knobs.
#[derive(Clone, Debug, Subcommand)]
pub enum KnobCommand {
    /// Show all.
    Show,
    /// Turn one.
    #[command(subcommand)]
    Set(Knob),
}

/// Meddling.
#[derive(Clone, Debug, Subcommand)]
pub enum MeddleCommand {
    /// Take a secondary address away from whichever network interface has it.
    TakeAddress {
        /// The address.
        address: std::net::IpAddr,
    },
    /// Move a secondary address to another network interface of its subnet.
    MoveAddress {
        /// The address.
        address: std::net::IpAddr,
        /// Id of the network interface that gets it.
        to: String,
    },
    /// Detach a network interface by force, whatever it is doing.
    ForceDetach {
        /// Id.
        nic: String,
    },
    /// Delete a network interface, detaching it by force where it is attached.
    VanishNic {
        /// Id.
        nic: String,
    },
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?}: key=value is wanted"))?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Args {
    /// The lab's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.state
            .clone()
            .unwrap_or_else(|| PathBuf::from("/run/tombolo-lab").join(&self.lab))
    }
}

/// Runs a command.
///
/// # Errors
/// What the command could not do.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let state = args.state_dir();
    let client = AdminClient::new(state.join(server::SOCKET));
    match args.command {
        Command::Serve { config, no_fabric } => {
            let config =
                config.map_or_else(|| Ok(Config::default()), |path| Config::load(&path))?;
            serve(Options {
                lab: args.lab,
                state,
                config,
                fabric: !no_fabric,
            })
            .await
        }
        Command::Status { output } => commands::status(&client, output).await,
        Command::Vm(command) => commands::vm(&client, command).await,
        Command::Nic(command) => commands::nic(&client, command).await,
        Command::Capture { nic, write, filter } => {
            commands::capture(&client, &nic, &write, &filter).await
        }
        Command::SpoofCounters { reset } => commands::counters(&client, reset).await,
        Command::Calls { reset } => commands::calls(&client, reset).await,
        Command::Knob(command) => commands::knob(&client, command).await,
        Command::Meddle(command) => commands::meddle(&client, command).await,
        Command::Down => commands::down(&client, &args.lab).await,
    }
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let lab = options.lab.clone();
    let server = Server::start(options).await?;
    let client = server.client();
    println!("VPC of lab {lab} is ready at {}", client.socket().display());
    let mut running = std::pin::pin!(server.wait());
    tokio::select! {
        ended = &mut running => return ended.map_err(Into::into),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    client.lab(&crate::admin::Shutdown {}).await?;
    running.await.map_err(Into::into)
}
