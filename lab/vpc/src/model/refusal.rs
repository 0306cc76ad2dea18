//! Why the cloud says no, with EC2's codes.

use tombolo_cloud_sim::wire::ApiError;
use tombolo_core::types::Family;

/// A refused call. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No NIC of that id.
    #[error("the network interface {0:?} does not exist")]
    NicNotFound(String),
    /// No instance of that id.
    #[error("the instance {0:?} does not exist")]
    InstanceNotFound(String),
    /// No subnet of that id.
    #[error("the subnet {0:?} does not exist")]
    SubnetNotFound(String),
    /// The NIC is attached.
    #[error("network interface {nic} is {status}")]
    NicInUse {
        /// The NIC.
        nic: String,
        /// What it is doing.
        status: String,
    },
    /// The instance has as many NICs as its type allows.
    #[error(
        "instance {instance} ({instance_type}) has {max} network interfaces, the most it can have"
    )]
    AttachmentLimit {
        /// The instance.
        instance: String,
        /// Its type.
        instance_type: String,
        /// NICs it may have.
        max: u16,
    },
    /// The NIC would have more addresses than the instance type allows.
    #[error("network interface {nic} would have {wanted} {family} addresses; {limit} are allowed")]
    AddressLimit {
        /// The NIC.
        nic: String,
        /// The family.
        family: Family,
        /// Addresses it would have.
        wanted: usize,
        /// Addresses it may have.
        limit: u16,
    },
    /// The subnet has run out.
    #[error("subnet {subnet} has {free} free {family} addresses; {wanted} are wanted")]
    SubnetFull {
        /// The subnet.
        subnet: String,
        /// The family.
        family: Family,
        /// Addresses wanted.
        wanted: u64,
        /// Addresses left.
        free: u64,
    },
    /// A parameter makes no sense.
    #[error("parameter `{field}`: {problem}")]
    Parameter {
        /// The parameter.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Parameters that do not go together.
    #[error("{0}")]
    Combination(String),
    /// Not in this state.
    #[error("{0}")]
    State(String),
    /// Never.
    #[error("{0}")]
    NotPermitted(String),
    /// A client token was used with other parameters before.
    #[error("client token {0:?} was used with other parameters")]
    TokenMismatch(String),
}

impl Refusal {
    pub(crate) fn parameter(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Parameter {
            field,
            problem: problem.into(),
        }
    }

    /// EC2's code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NicNotFound(_) => "InvalidNetworkInterfaceID.NotFound",
            Self::InstanceNotFound(_) => "InvalidInstanceID.NotFound",
            Self::SubnetNotFound(_) => "InvalidSubnetID.NotFound",
            Self::NicInUse { .. } => "InvalidNetworkInterface.InUse",
            Self::AttachmentLimit { .. } => "AttachmentLimitExceeded",
            Self::AddressLimit { .. } => "PrivateIpAddressLimitExceeded",
            Self::SubnetFull { .. } => "InsufficientFreeAddressesInSubnet",
            Self::Parameter { .. } => "InvalidParameterValue",
            Self::Combination(_) => "InvalidParameterCombination",
            Self::State(_) => "IncorrectState",
            Self::NotPermitted(_) => "OperationNotPermitted",
            Self::TokenMismatch(_) => "IdempotentParameterMismatch",
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.code().to_owned(),
            message: refusal.to_string(),
        }
    }
}
