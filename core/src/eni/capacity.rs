//! How many pods an instance type can address.

use crate::types::{Families, Family, NicLimits};

/// Addresses for pods that one NIC carries, of one family.
///
/// `own` says whether the NIC's own address counts against its limit: always for IPv4, for IPv6 only where the NIC has one.
#[must_use]
pub const fn pod_addresses_per_nic(limits: &NicLimits, family: Family, own: bool) -> u16 {
    let limit = match family {
        Family::V4 => limits.ipv4_per_nic,
        Family::V6 => limits.ipv6_per_nic,
    };
    limit.saturating_sub(own as u16)
}

/// Pods that a node of this type can give an IPv4 address: every NIC carries its own address and the rest are for pods.
#[must_use]
pub fn max_pods(limits: &NicLimits) -> u32 {
    max_pods_of(limits, Families::V4)
}

/// The same for other families. A dual-stack pod needs one address of each on the same NIC; of IPv6 addresses only the
/// primary NIC has one of its own.
#[must_use]
pub fn max_pods_of(limits: &NicLimits, families: Families) -> u32 {
    let on_nic = |primary: bool| {
        let per_family =
            |family| pod_addresses_per_nic(limits, family, family == Family::V4 || primary);
        families.iter().map(per_family).min().map_or(0, u32::from)
    };
    match limits.max_nics {
        0 => 0,
        nics => on_nic(true) + u32::from(nics - 1) * on_nic(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_by_limits_and_families() {
        let limits = |max_nics, ipv4_per_nic, ipv6_per_nic| NicLimits {
            max_nics,
            ipv4_per_nic,
            ipv6_per_nic,
        };
        for (limits, v4, dual, v6) in [
            (limits(3, 10, 10), 27, 27, 29),
            (limits(2, 4, 4), 6, 6, 7),
            (limits(4, 15, 3), 56, 11, 11),
            (limits(1, 1, 1), 0, 0, 0),
            (limits(0, 10, 10), 0, 0, 0),
            (limits(15, 50, 50), 735, 735, 749),
        ] {
            assert_eq!(max_pods(&limits), v4, "IPv4 of {limits:?}");
            assert_eq!(
                max_pods_of(&limits, Families::Dual),
                dual,
                "dual stack of {limits:?}"
            );
            assert_eq!(max_pods_of(&limits, Families::V6), v6, "IPv6 of {limits:?}");
        }
    }
}
