//! Built-in instance types with EC2's limits.

use tombolo_cloud_sim::wire::InstanceType;

/// Name, NICs, addresses of each family a NIC (EC2 has the same limit for both).
const TYPES: &[(&str, u16, u16)] = &[
    ("t3.nano", 2, 2),
    ("t3.micro", 2, 2),
    ("t3.small", 3, 4),
    ("t3.medium", 3, 6),
    ("t3.large", 3, 12),
    ("t3.xlarge", 4, 15),
    ("t3.2xlarge", 4, 15),
    ("m5.large", 3, 10),
    ("m5.xlarge", 4, 15),
    ("m5.2xlarge", 4, 15),
    ("m5.4xlarge", 8, 30),
    ("m5.8xlarge", 8, 30),
    ("m5.12xlarge", 8, 30),
    ("m5.16xlarge", 15, 50),
    ("m5.24xlarge", 15, 50),
    ("c5.large", 3, 10),
    ("c5.xlarge", 4, 15),
    ("c5.2xlarge", 4, 15),
    ("c5.4xlarge", 8, 30),
    ("c5.9xlarge", 8, 30),
    ("c5.18xlarge", 15, 50),
    ("c5n.large", 3, 10),
    ("c5n.18xlarge", 15, 50),
    ("r5.large", 3, 10),
    ("r5.4xlarge", 8, 30),
];

/// The built-in types.
pub fn builtin() -> impl Iterator<Item = InstanceType> {
    TYPES.iter().map(|&(name, max_nics, per_nic)| InstanceType {
        name: name.to_owned(),
        max_nics,
        ipv4_per_nic: per_nic,
        ipv6_per_nic: per_nic,
    })
}
