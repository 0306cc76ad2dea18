//! Replies as no cloud sends them: an error of a known kind, or a value that is written as it was read.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tombolo_fuzz::Target;

use super::*;
use crate::wire::{
    AssignAddresses, AttachNic, CreateNic, DeleteNic, DescribeInstanceTypes, DescribeInstances,
    DescribeNics, DescribeSubnets, DescribeVpc,
};

fn reply<V: Verb>(status: StatusCode, body: &[u8])
where
    V::Reply: Serialize + DeserializeOwned,
{
    match decode::<V>(status, body) {
        Ok(reply) => {
            assert!(status.is_success());
            let written = serde_json::to_vec(&reply).expect("JSON");
            let again = decode::<V>(status, &written).expect("what we write we read");
            let value = |reply: &V::Reply| -> Value { serde_json::to_value(reply).expect("JSON") };
            assert_eq!(value(&again), value(&reply));
        }
        Err(error) => {
            assert!(error.to_string().starts_with(V::NAME));
            assert!(error.to_string().len() < 3 * MAX_TEXT);
            // Only the cloud itself can say that nothing was done.
            let refused = matches!(error, Error::Api { .. });
            assert_eq!(error.outcome_unknown(), !refused);
            assert!(!(refused && status.is_success()));
        }
    }
}

#[test]
fn replies() {
    let words = &[
        "id",
        "cidrs",
        "instance_type",
        "running",
        "terminated",
        "primary_nic",
        "max_nics",
        "available4",
        "gateway4",
        "gateway6",
        "cidr4",
        "cidr6",
        "mac",
        "status",
        "in-use",
        "attachment",
        "device_index",
        "secondary",
        "primary4",
        "primary6",
        "tags",
        "addresses",
        "code",
        "message",
        "RequestLimitExceeded",
        "InvalidNetworkInterfaceID.NotFound",
    ];
    Target::new("cloud-replies").words(words).check(|body| {
        for status in [StatusCode::OK, StatusCode::BAD_REQUEST] {
            reply::<DescribeVpc>(status, body);
            reply::<DescribeInstances>(status, body);
            reply::<DescribeInstanceTypes>(status, body);
            reply::<DescribeSubnets>(status, body);
            reply::<DescribeNics>(status, body);
            reply::<CreateNic>(status, body);
            reply::<AttachNic>(status, body);
            reply::<DeleteNic>(status, body);
            reply::<AssignAddresses>(status, body);
        }
    });
}

#[test]
fn endpoints() {
    Target::new("cloud-endpoint").check(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        match text.parse::<Endpoint>() {
            Ok(Endpoint::Unix(path)) => assert!(path.is_absolute()),
            Ok(Endpoint::Tcp(uri)) => {
                // A request can be built for it.
                let client = Client::new(Endpoint::Tcp(uri), ClientConfig::default());
                assert!(client.request(&DescribeVpc {}).is_ok());
            }
            Err(error) => assert!(!error.problem.is_empty()),
        }
    });
}
