//! From the name of a call and its body to the model, and back to JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_cloud_sim::wire::{self, ApiError, Empty, Verb};
use tombolo_core::types::Millis;

use super::Shared;
use crate::admin::{self, LabVerb};
use crate::model::{Model, View};

/// A reply: JSON, and whether the fabric must have caught up before it goes out.
pub struct Done {
    pub body: Vec<u8>,
    pub wait: bool,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde's text names the field.
    serde_json::from_slice(body)
        .map_err(|e| error("InvalidParameterValue", format!("request body: {e}")))
}

pub fn error(code: &str, message: impl Into<String>) -> ApiError {
    ApiError {
        code: code.to_owned(),
        message: message.into(),
    }
}

fn json(reply: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(reply).map_err(|e| error("InternalError", format!("encode reply: {e}")))
}

/// Whether a cloud call of that name exists.
pub fn is_cloud_verb(name: &str) -> bool {
    CLOUD_VERBS.contains(&name)
}

macro_rules! cloud_verbs {
    ($model:ident, $now:ident, $seen:ident, $call:ident; $($verb:ident $wait:literal => $body:expr;)+) => {
        const CLOUD_VERBS: &[&str] = &[$(<wire::$verb as Verb>::NAME),+];

        /// Carries out a cloud call. `seen`: what it is shown, where that is not the world as it is.
        pub fn cloud($model: &mut Model, $now: Millis, $seen: Option<View>, name: &str, body: &[u8]) -> Result<Done, ApiError> {
            match name {
                $(<wire::$verb as Verb>::NAME => {
                    let $call: wire::$verb = parse(body)?;
                    let reply: <wire::$verb as Verb>::Reply = $body;
                    Ok(Done { body: json(&reply)?, wait: $wait })
                })+
                _ => Err(error("InvalidAction", format!("there is no call {name:?}"))),
            }
        }
    };
}

// Calls that change where packets go return when they do (EC2 gives no such promise, and the product does not rely on it);
// attaching and detaching are seen in progress, as there.
cloud_verbs! {
    model, now, seen, call;
    DescribeVpc false => { let wire::DescribeVpc {} = call; model.describe_vpc() };
    DescribeInstances false => match seen { Some(view) => view.instances(&call)?, None => model.describe_instances(&call)? };
    DescribeInstanceTypes false => model.describe_instance_types(&call)?;
    DescribeSubnets false => match seen { Some(view) => view.subnets(&call)?, None => model.describe_subnets(&call)? };
    DescribeNics false => match seen { Some(view) => view.nics(&call)?, None => model.describe_nics(&call)? };
    CreateNic false => model.create_nic(&call)?;
    AttachNic false => model.attach_nic(now, &call)?;
    DetachNic false => { model.detach_nic(now, &call.nic)?; Empty {} };
    DeleteNic false => { model.delete_nic(&call.nic)?; Empty {} };
    AssignAddresses true => model.assign_addresses(&call)?;
    UnassignAddresses true => { model.unassign_addresses(&call)?; Empty {} };
    TagNic false => { model.tag_nic(&call)?; Empty {} };
}

macro_rules! lab_verbs {
    ($shared:ident, $name:ident, $body:ident; $($verb:ident |$call:ident| $reply:expr;)+) => {
        match $name {
            $(<admin::$verb as LabVerb>::NAME => {
                let $call: admin::$verb = parse($body)?;
                let reply: <admin::$verb as LabVerb>::Reply = $reply;
                json(&reply)
            })+
            _ => Err(error("InvalidAction", format!("there is no lab call {:?}", $name))),
        }
    };
}

/// Carries out a lab call.
pub async fn lab(shared: &Shared, name: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
    lab_verbs! { shared, name, body;
        RunInstance |call| shared.run_instance(&call).await?;
        TerminateInstance |call| {
            shared.change(|m| m.terminate_instance(&call.instance)).await?;
            Empty {}
        };
        ListInstances |_call| shared.model().list_instances();
        Links |_call| shared.links();
        Counters |_call| shared.counters().await?;
        ResetCounters |_call| { shared.reset_counters().await?; Empty {} };
        Calls |_call| shared.calls().clone();
        ResetCalls |_call| { shared.calls().clear(); Empty {} };
        SetKnob |call| { shared.set_knob(call.knob)?; Empty {} };
        Knobs |_call| shared.knob_state();
        SetMtu |call| {
            shared.change(|m| m.set_mtu(&call.nic, call.mtu)).await?;
            Empty {}
        };
        TakeAddress |call| {
            shared.change(|m| m.take_address(call.address)).await?;
            Empty {}
        };
        MoveAddress |call| {
            shared.change(|m| m.move_address(call.address, &call.to)).await?;
            Empty {}
        };
        ForceDetach |call| {
            shared.change(|m| m.force_detach(&call.nic)).await?;
            Empty {}
        };
        VanishNic |call| {
            shared.change(|m| m.vanish_nic(&call.nic)).await?;
            Empty {}
        };
        Info |_call| shared.info();
        Shutdown |_call| { shared.stop(); Empty {} };
    }
}
