//! `tombolo-e2e`: a real Kubernetes (etcd, API server, controller manager, scheduler; kubelet, containerd and kube-proxy on
//! every node) on the lab's VPC, with Tombolo as its only CNI, installed from `deploy/`.
//!
//! | module | does |
//! |---|---|
//! | [`cluster`], [`vpc`] | bringing the cluster up, and down without a trace |
//! | [`install`], [`image`] | Tombolo as a user installs it; images from local programs |
//! | [`kubectl`], [`workload`], [`client`] | pods and Services, and their users |
//! | [`checks`], [`audit`], [`report`] | what must hold, and the table |
//! | [`burst`] | 110 pods at once, beside Debian's `bridge` |
//! | [`wait`], [`command`] | bounded waiting, ^C, programs of others |

mod audit;
mod burst;
mod checks;
mod client;
mod cluster;
mod command;
mod context;
mod image;
mod install;
mod kubectl;
mod report;
mod vpc;
mod wait;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use checks::CHECKS;
use cluster::{Cluster, NODES, Programs};
use context::Context;
use report::Report;

/// A real Kubernetes on the lab's VPC, with Tombolo as its only CNI.
#[derive(Debug, Parser)]
#[command(name = "tombolo-e2e", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a cluster up, run the checks, take it down and print a table.
    Run(RunArgs),
    /// 110 pods at once on one node, with Tombolo and with Debian's `bridge`.
    Burst(BurstArgs),
    /// Names of the checks and what they show.
    List,
    /// What a node's namespaces are kept by.
    #[command(hide = true)]
    Hold { name: String, dir: PathBuf },
    /// The VPC's simulator.
    #[command(hide = true)]
    Vpc(tombolo_lab_vpc::Args),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Folder of kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy and kubectl.
    #[arg(long, env = "KUBE_BIN_DIR")]
    kube_bin: PathBuf,
    /// Archive of Tombolo's image, as `make image` writes it.
    #[arg(long)]
    image: PathBuf,
    /// Archive of the previous commit's image, for the upgrade.
    #[arg(long)]
    previous: Option<PathBuf>,
    /// Folder with the manifests.
    #[arg(long, default_value = "deploy")]
    deploy: PathBuf,
    /// Only these checks.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leave the cluster up when a check fails, until ^C.
    #[arg(long)]
    keep: bool,
    /// Folder for everything that the cluster writes; removed at the end.
    #[arg(long, default_value = "/run/tombolo-e2e")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct BurstArgs {
    /// Folder of kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy and kubectl.
    #[arg(long, env = "KUBE_BIN_DIR")]
    kube_bin: PathBuf,
    /// Archive of Tombolo's image.
    #[arg(long)]
    image: PathBuf,
    /// Folder with the manifests.
    #[arg(long, default_value = "deploy")]
    deploy: PathBuf,
    /// Folder for everything that the clusters write; removed at the end.
    #[arg(long, default_value = "/run/tombolo-e2e")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Burst(args) => burst(&args),
        Command::List => {
            for check in CHECKS {
                println!("{:<14} {}", check.name, check.shows);
            }
            Ok(())
        }
        Command::Hold { name, dir } => cluster::node::hold(&name, &dir),
        Command::Vpc(args) => serve_vpc(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_vpc(args: tombolo_lab_vpc::Args) -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("info")
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(tombolo_lab_vpc::run(args))
}

fn burst(args: &BurstArgs) -> Result<()> {
    let programs = Programs::find(&args.kube_bin)?;
    image::check_archive(&args.image)?;
    let runtime = signals()?;
    let bridge = burst::bridge(&args.dir, &programs)?;
    let tombolo = burst::tombolo(&args.dir, &programs, &args.deploy, &args.image)?;
    drop(runtime);
    println!("{}", burst::table(tombolo, bridge));
    Ok(())
}

/// From now on ^C is noticed, as long as what is returned lives.
fn signals() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start a runtime")?;
    wait::watch_signals(runtime.handle());
    Ok(runtime)
}

fn run(args: &RunArgs) -> Result<()> {
    for name in &args.only {
        if !CHECKS.iter().any(|check| check.name == name) {
            bail!("--only {name}: no such check; `tombolo-e2e list` names them");
        }
    }
    let programs = Programs::find(&args.kube_bin)?;
    image::check_archive(&args.image)?;
    let _runtime = signals()?;
    let before = tombolo_lab::residue::snapshot()?;
    let mut report = Report::default();
    let say = |text: &str| println!("== {text}");
    let cluster = report.take("cluster", || {
        let cluster = Cluster::start(&args.dir, programs, &NODES, say)?;
        Ok((cluster, "etcd, control plane, 3 nodes".to_owned()))
    });
    if let Some(cluster) = cluster {
        let mut context = Context::new(
            cluster,
            args.deploy.clone(),
            args.image.clone(),
            args.previous.clone(),
        )?;
        checks::run(&mut context, &args.only, &mut report);
        if args.keep && report.failed() && !wait::interrupted() {
            println!("kept: KUBECONFIG={}", context.kubectl.kubeconfig.display());
            println!(
                "      nsenter --net={} kubectl …; ^C ends it",
                context.kubectl.netns
            );
            while !wait::interrupted() {
                std::thread::park_timeout(std::time::Duration::from_millis(500));
            }
        }
        wait::ignore_interrupt();
        report.take("down", || {
            Ok((context.cluster.down()?, "nothing is left".to_owned()))
        });
    }
    wait::ignore_interrupt();
    report.take("residue", || {
        let left = tombolo_lab::residue::left_since(&before)?;
        let groups = cluster::cgroup::all()?;
        let processes = cluster::leftovers(&args.dir)?;
        if !left.is_empty() || !groups.is_empty() || !processes.is_empty() || args.dir.exists() {
            bail!(
                "left: {left:?}, {groups:?}, {processes:?}, {}",
                args.dir.display()
            );
        }
        Ok((
            (),
            "no process, namespace, mount, control group or file".to_owned(),
        ))
    });
    println!("{report}");
    if report.failed() {
        bail!("not everything holds");
    }
    Ok(())
}
