//! The commands that talk to a running server.

use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, bail};
use tombolo_cloud_sim::wire::{
    AssignAddresses, AttachNic, CreateNic, DeleteNic, DescribeNics, DescribeSubnets, DetachNic,
    Empty, NicInfo, Subnet, TagNic, UnassignAddresses,
};
use tombolo_core::types::Family;

use super::{KnobCommand, MeddleCommand, NicCommand, Output, VmCommand, table};
use crate::admin::{
    Calls, Counters, ForceDetach, InstanceDetail, Knobs, Links, ListInstances, MoveAddress,
    ResetCalls, ResetCounters, RunInstance, SetKnob, SetMtu, Shutdown, TakeAddress,
    TerminateInstance, VanishNic,
};
use crate::capture::Capture;
use crate::client::{AdminClient, ClientError};
use crate::fabric::{self, Netns};

fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

pub async fn status(client: &AdminClient, output: Output) -> anyhow::Result<()> {
    let subnets = client.cloud(&DescribeSubnets::default()).await?;
    let instances = client.lab(&ListInstances {}).await?;
    let nics = client.cloud(&DescribeNics::default()).await?;
    let links = client.lab(&Links {}).await?;
    if output == Output::Json {
        return json(&serde_json::json!({
            "subnets": subnets, "instances": instances, "nics": nics, "links": links,
        }));
    }
    print_subnets(&subnets);
    println!();
    print_instances(&instances);
    println!();
    print_nics(&nics);
    for link in links {
        if let Some(error) = link.error {
            println!(
                "\n{} ({}:{}): {error}",
                link.nic, link.instance_name, link.guest_link
            );
        }
    }
    Ok(())
}

fn print_subnets(subnets: &[Subnet]) {
    let rows: Vec<[String; 5]> = subnets
        .iter()
        .map(|s| {
            let v6 = s.cidr6.map(|c| c.to_string()).unwrap_or_default();
            [
                s.id.clone(),
                s.zone.clone(),
                s.cidr4.to_string(),
                v6,
                s.available4.to_string(),
            ]
        })
        .collect();
    table::print(["SUBNET", "ZONE", "IPV4", "IPV6", "FREE"], &rows);
}

fn print_instances(instances: &[InstanceDetail]) {
    let rows: Vec<[String; 8]> = instances
        .iter()
        .map(|i| {
            [
                i.name.clone(),
                i.id.clone(),
                i.instance_type.clone(),
                i.zone.clone(),
                format!("{:?}", i.state).to_lowercase(),
                i.primary4.addr().to_string(),
                i.primary6.map(|a| a.to_string()).unwrap_or_default(),
                i.public4.to_string(),
            ]
        })
        .collect();
    table::print(
        [
            "INSTANCE", "ID", "TYPE", "ZONE", "STATE", "IPV4", "IPV6", "PUBLIC",
        ],
        &rows,
    );
}

fn print_nics(nics: &[NicInfo]) {
    let rows: Vec<[String; 7]> = nics
        .iter()
        .map(|n| {
            let place = n
                .attachment
                .as_ref()
                .map(|a| format!("{} eth{}", a.instance, a.device_index));
            let list: Vec<String> = n.secondary.iter().map(ToString::to_string).collect();
            [
                n.id.clone(),
                n.subnet.clone(),
                n.mac.to_string(),
                format!("{:?}", n.status).to_lowercase(),
                place.unwrap_or_default(),
                n.primary4.to_string(),
                list.join(" "),
            ]
        })
        .collect();
    table::print(
        [
            "NIC",
            "SUBNET",
            "MAC",
            "STATUS",
            "ATTACHED",
            "PRIMARY",
            "SECONDARY",
        ],
        &rows,
    );
}

pub async fn vm(client: &AdminClient, command: VmCommand) -> anyhow::Result<()> {
    match command {
        VmCommand::Run {
            name,
            instance_type,
            subnet,
            netns,
        } => json(
            &client
                .lab(&RunInstance {
                    name,
                    instance_type,
                    subnet,
                    netns,
                })
                .await?,
        ),
        VmCommand::Terminate { instance } => {
            client.lab(&TerminateInstance { instance }).await?;
            Ok(())
        }
        VmCommand::List { output } => {
            let instances = client.lab(&ListInstances {}).await?;
            if output == Output::Json {
                return json(&instances);
            }
            print_instances(&instances);
            Ok(())
        }
        VmCommand::Exec { instance, command } => {
            let found = find(client, &instance).await?;
            let Some((program, arguments)) = command.split_first() else {
                bail!("no program given");
            };
            // exec keeps the namespace of the thread that calls it.
            Netns::open(&found.netns)?
                .run(|| {
                    let error = std::process::Command::new(program).args(arguments).exec();
                    Ok(error)
                })
                .map(|error| Err(error).with_context(|| format!("run {program}")))?
        }
    }
}

async fn find(client: &AdminClient, instance: &str) -> anyhow::Result<InstanceDetail> {
    let all = client.lab(&ListInstances {}).await?;
    // The newest of a name: earlier ones are terminated.
    all.into_iter()
        .rev()
        .find(|i| i.id == instance || i.name == instance)
        .with_context(|| format!("there is no instance {instance:?}"))
}

pub async fn nic(client: &AdminClient, command: NicCommand) -> anyhow::Result<()> {
    match command {
        NicCommand::List { output } => {
            let nics = client.cloud(&DescribeNics::default()).await?;
            if output == Output::Json {
                return json(&nics);
            }
            print_nics(&nics);
        }
        NicCommand::Create {
            subnet,
            ipv4,
            ipv6,
            description,
            token,
            tags,
        } => {
            let call = CreateNic {
                subnet,
                description,
                client_token: token,
                ipv4_count: ipv4,
                ipv6_count: ipv6,
                security_groups: Vec::new(),
                tags: tags.into_iter().collect(),
            };
            return json(&client.cloud(&call).await?);
        }
        NicCommand::Attach {
            nic,
            instance,
            index,
            delete_on_termination,
        } => {
            let instance = find(client, &instance).await?.id;
            let call = AttachNic {
                nic,
                instance,
                device_index: index,
                delete_on_termination,
            };
            return json(&client.cloud(&call).await?);
        }
        NicCommand::Detach { nic } => {
            let Empty {} = client.cloud(&DetachNic { nic }).await?;
        }
        NicCommand::Delete { nic } => {
            let Empty {} = client.cloud(&DeleteNic { nic }).await?;
        }
        NicCommand::Assign { nic, family, count } => {
            let family = match family {
                4 => Family::V4,
                6 => Family::V6,
                other => bail!("--family {other}: 4 or 6 is wanted"),
            };
            return json(
                &client
                    .cloud(&AssignAddresses { nic, family, count })
                    .await?,
            );
        }
        NicCommand::Unassign { nic, addresses } => {
            let Empty {} = client.cloud(&UnassignAddresses { nic, addresses }).await?;
        }
        NicCommand::Tag { nic, tags } => {
            let Empty {} = client
                .cloud(&TagNic {
                    nic,
                    tags: tags.into_iter().collect(),
                })
                .await?;
        }
        NicCommand::Mtu { nic, mtu } => {
            let Empty {} = client.lab(&SetMtu { nic, mtu }).await?;
        }
    }
    Ok(())
}

pub async fn capture(
    client: &AdminClient,
    nic: &str,
    file: &Path,
    filter: &[String],
) -> anyhow::Result<()> {
    let running = Capture::start(client, nic, file, filter).await?;
    eprintln!("capturing {nic} into {}; end with Ctrl-C", file.display());
    // Ctrl-C goes to the whole foreground group; a signal to this process alone ends tcpdump too.
    tokio::signal::ctrl_c().await.context("watch SIGINT")?;
    running.stop()?;
    Ok(())
}

pub async fn counters(client: &AdminClient, reset: bool) -> anyhow::Result<()> {
    json(&client.lab(&Counters {}).await?)?;
    if reset {
        client.lab(&ResetCounters {}).await?;
    }
    Ok(())
}

pub async fn calls(client: &AdminClient, reset: bool) -> anyhow::Result<()> {
    let rows: Vec<[String; 7]> = client
        .lab(&Calls {})
        .await?
        .into_iter()
        .map(|(verb, c)| {
            [
                verb,
                c.ok.to_string(),
                c.refused.to_string(),
                c.throttled.to_string(),
                c.lost.to_string(),
                c.corrupted.to_string(),
                c.held.to_string(),
            ]
        })
        .collect();
    table::print(
        [
            "CALL",
            "OK",
            "REFUSED",
            "THROTTLED",
            "LOST",
            "CORRUPTED",
            "HELD",
        ],
        &rows,
    );
    if reset {
        client.lab(&ResetCalls {}).await?;
    }
    Ok(())
}

pub async fn knob(client: &AdminClient, command: KnobCommand) -> anyhow::Result<()> {
    match command {
        KnobCommand::Show => json(&client.lab(&Knobs {}).await?),
        KnobCommand::Set(knob) => {
            client.lab(&SetKnob { knob }).await?;
            Ok(())
        }
    }
}

pub async fn meddle(client: &AdminClient, command: MeddleCommand) -> anyhow::Result<()> {
    let Empty {} = match command {
        MeddleCommand::TakeAddress { address } => client.lab(&TakeAddress { address }).await?,
        MeddleCommand::MoveAddress { address, to } => {
            client.lab(&MoveAddress { address, to }).await?
        }
        MeddleCommand::ForceDetach { nic } => client.lab(&ForceDetach { nic }).await?,
        MeddleCommand::VanishNic { nic } => client.lab(&VanishNic { nic }).await?,
    };
    Ok(())
}

/// Stops a server and waits until it is gone; without one, sweeps what a killed one left.
pub async fn down(client: &AdminClient, lab: &str) -> anyhow::Result<()> {
    match client.lab(&Shutdown {}).await {
        Ok(_) => {
            // The socket goes last: from then on a connect is refused.
            while client.socket().exists() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        Err(ClientError::Connect { .. }) => {
            for name in fabric::sweep(lab)? {
                println!("removed namespace {name}");
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
