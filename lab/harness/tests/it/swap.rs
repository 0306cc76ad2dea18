//! An old build of agent, operator and plugin is replaced by a new one, and back, while pods come and go and connections
//! carry verified bytes over both NICs. A pod that one build made is taken away by the next.
//!
//! `TOMBOLO_OLD_BUILD` names the directory of the old build; without it, it is this build at another path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tombolo_lab::check;
use tombolo_lab::kubeapi::Api;
use tombolo_lab::pods::{self, Pod};
use tombolo_lab::state::Lab;
use tombolo_lab::topology::Topology;
use tombolo_lab::up;

use crate::kills::carry;
use crate::support::{bin_dir, lines, probe, run_pods, scenario};

/// Pods that stay: enough for two NICs.
const STAYING: usize = 7;
/// Pods that come and go under each build: enough for a third one.
const WAVE: usize = 5;
const CONNECTIONS: usize = 24;
const PROGRAMS: [&str; 3] = ["tombolo-agent", "tombolo-operator", "tombolo-cni"];

#[test]
fn an_old_build_is_replaced_by_a_new_one_and_back() {
    let mut topology = Topology::with("swap", 1, "t3.medium", 1);
    let lease = ["--lease-duration=2s", "--lease-renew=500ms"];
    topology.operator_args.extend(lease.map(str::to_owned));
    topology.profile.pool.warm_min = 0;
    topology.profile.pool.warm_max = 1;
    topology.profile.pool.cooling_seconds = 1;
    scenario(topology, async |mut lab| {
        let copies = tempfile::tempdir()?;
        let (old, same) = match std::env::var_os("TOMBOLO_OLD_BUILD") {
            Some(dir) => (PathBuf::from(dir), false),
            None => (copied(copies.path())?, true),
        };
        let new = bin_dir();
        replace(&mut lab, &old, true)?;
        up::install_plugin(&of_build(&lab, &old), &lab.nodes[0])?;
        let staying = run_pods(&lab, STAYING).await?;
        let traffic = carry(&lab, &staying, CONNECTIONS).await?;
        let mut kept = None;
        for (round, build) in [&new, &old, &new, &old, &new].into_iter().enumerate() {
            // Alternately asked to end, and killed.
            replace(&mut lab, build, round % 2 == 0)?;
            // The plugin of before still asks.
            kept = Some(keep(&lab, round, kept).await?);
            up::install_plugin(&of_build(&lab, build), &lab.nodes[0])?;
            wave(&lab, round, &staying)
                .await
                .with_context(|| format!("round {round}, {}", build.display()))?;
            runs_from(&lab, build)?;
            // The checker knows what this build promises.
            if same || *build == new {
                let violations = check::settle(&lab, Duration::from_secs(15)).await?;
                ensure!(violations.is_empty(), "{round}: {}", lines(&violations));
            }
        }
        for connection in traffic {
            println!("{:?}", connection.carried_throughout()?);
        }
        Ok(())
    });
}

/// This build, elsewhere.
fn copied(to: &Path) -> Result<PathBuf> {
    for program in PROGRAMS {
        std::fs::copy(bin_dir().join(program), to.join(program))
            .with_context(|| format!("copy {program}"))?;
    }
    Ok(to.to_owned())
}

fn of_build(lab: &Lab, build: &Path) -> Lab {
    let mut of_build = lab.clone();
    of_build.topology.bin_dir = Some(build.to_owned());
    of_build
}

/// Agent and operator end; those of this build begin.
fn replace(lab: &mut Lab, build: &Path, gently: bool) -> Result<()> {
    let operator = lab.services.iter().find(|p| p.name == "operator");
    let operator = operator.cloned().context("an operator")?;
    let agent = lab.nodes[0].agent.clone().context("an agent")?;
    for process in [&operator, &agent] {
        if gently {
            process.end(Duration::from_secs(10))?;
        } else {
            process.kill()?;
        }
    }
    let usual = lab.topology.bin_dir.replace(build.to_owned());
    let netns = lab.vm("control")?.netns.clone();
    let started = up::start_operator(lab, &netns);
    let agent = up::start_agent(lab, &lab.nodes[0]);
    lab.topology.bin_dir = usual;
    started?;
    lab.nodes[0].agent = Some(agent?);
    lab.save()
}

/// That they are what they are said to be.
fn runs_from(lab: &Lab, build: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let file = |path: &Path| std::fs::metadata(path).map(|of| (of.dev(), of.ino()));
    let operator = lab.services.iter().find(|p| p.name == "operator");
    let agent = &lab.nodes[0].agent;
    let of = |process, program| (process, build.join(program));
    let operator = operator.map(|process| of(process, "tombolo-operator"));
    let agent = agent.as_ref().map(|process| of(process, "tombolo-agent"));
    for (process, program) in operator.into_iter().chain(agent) {
        // Not by its path: seen from another mount namespace that can be another one.
        let runs = file(format!("/proc/{}/exe", process.pid).as_ref())?;
        ensure!(
            runs == file(&program)?,
            "{} is not {program:?}",
            process.name
        );
    }
    Ok(())
}

/// A pod for the next build, and the end of the one that the build before made.
async fn keep(lab: &Lab, round: usize, before: Option<String>) -> Result<String> {
    let api = Api::new(&lab.api_url)?;
    let name = format!("kept-{round}");
    create(&api, &name).await?;
    running(&api, &[&name]).await?;
    if let Some(before) = before {
        pods::delete(&api, &before).await?;
        gone(&api, &[&before]).await?;
    }
    Ok(name)
}

/// Pods come, run, and go, and the NIC that they needed goes with them.
async fn wave(lab: &Lab, round: usize, staying: &BTreeMap<String, Pod>) -> Result<()> {
    let api = Api::new(&lab.api_url)?;
    let names: Vec<String> = (0..WAVE).map(|n| format!("wave-{round}-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        create(&api, name).await?;
    }
    running(&api, &names).await?;
    let now = pods::running(&api).await?;
    for (name, pod) in staying {
        ensure!(now.get(name) == Some(pod), "{name} is another now");
    }
    for name in &names {
        pods::delete(&api, name).await?;
    }
    gone(&api, &names).await?;
    up::wait_for(
        "the NIC is given back",
        Duration::from_secs(60),
        async || {
            let enis = api.list("/apis/tombolo.dev/v1alpha1/enis").await?;
            Ok(enis.len() == 2)
        },
    )
    .await
}

async fn create(api: &Api, name: &str) -> Result<()> {
    pods::create(api, &pods::manifest(name, None, &probe(), &[])).await
}

async fn running(api: &Api, names: &[&str]) -> Result<()> {
    up::wait_for("pods run", Duration::from_secs(60), async || {
        let running = pods::running(api).await?;
        Ok(names.iter().all(|name| running.contains_key(*name)))
    })
    .await
}

async fn gone(api: &Api, names: &[&str]) -> Result<()> {
    up::wait_for("pods are gone", Duration::from_secs(60), async || {
        let running = api.list("/api/v1/namespaces/default/pods").await?;
        let name = |pod| tombolo_lab::kubeapi::text(pod, "/metadata/name");
        Ok(!running
            .iter()
            .map(name)
            .any(|pod| names.contains(&pod.as_str())))
    })
    .await
}
