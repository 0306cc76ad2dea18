//! The addresses of a range: what is reserved, in use, free. Fresh addresses go out first, in order; released ones come back
//! only when no fresh one is left, the longest released first, as clouds do.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Free addresses of one range.
#[derive(Clone, Debug)]
pub struct AddressPool {
    base: u128,
    v6: bool,
    /// Next address that was never given out, as offset.
    fresh: u128,
    /// First offset that is never given out.
    end: u128,
    released: VecDeque<u128>,
    used: BTreeSet<u128>,
}

impl AddressPool {
    /// A pool over `net` without its first `head` addresses and its last `tail` ones.
    #[must_use]
    pub fn new(net: IpNet, head: u128, tail: u128) -> Self {
        let (base, bits, v6) = match net {
            IpNet::V4(n) => (
                u128::from(u32::from(n.network())),
                32 - n.prefix_len(),
                false,
            ),
            IpNet::V6(n) => (u128::from(n.network()), 128 - n.prefix_len(), true),
        };
        let size = 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX);
        let end = size.saturating_sub(tail);
        Self {
            base,
            v6,
            fresh: head.min(end),
            end,
            released: VecDeque::new(),
            used: BTreeSet::new(),
        }
    }

    /// How many are free.
    #[must_use]
    pub fn free(&self) -> u128 {
        self.end - self.fresh + self.released.len() as u128
    }

    /// Takes `count` addresses, or none.
    pub fn take(&mut self, count: usize) -> Option<Vec<IpAddr>> {
        if self.free() < count as u128 {
            return None;
        }
        let taken: Vec<u128> = std::iter::from_fn(|| self.take_offset())
            .take(count)
            .collect();
        Some(
            taken
                .into_iter()
                .map(|offset| self.address(offset))
                .collect(),
        )
    }

    /// Takes one address.
    pub fn take_one(&mut self) -> Option<IpAddr> {
        let offset = self.take_offset()?;
        Some(self.address(offset))
    }

    /// Gives an address back. Foreign or free addresses are ignored: `false`.
    pub fn release(&mut self, address: IpAddr) -> bool {
        let number = match address {
            IpAddr::V4(a) if !self.v6 => u128::from(u32::from(a)),
            IpAddr::V6(a) if self.v6 => u128::from(a),
            _ => return false,
        };
        let Some(offset) = number.checked_sub(self.base) else {
            return false;
        };
        let was_used = self.used.remove(&offset);
        if was_used {
            self.released.push_back(offset);
        }
        was_used
    }

    fn take_offset(&mut self) -> Option<u128> {
        let offset = if self.fresh < self.end {
            self.fresh += 1;
            self.fresh - 1
        } else {
            self.released.pop_front()?
        };
        self.used.insert(offset);
        Some(offset)
    }

    fn address(&self, offset: u128) -> IpAddr {
        let number = self.base + offset;
        if self.v6 {
            IpAddr::V6(Ipv6Addr::from(number))
        } else {
            // The offset is below 2^(32 - prefix length), so the sum fits.
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an IPv4 address has 32 bits"
            )]
            let number = number as u32;
            IpAddr::V4(Ipv4Addr::from(number))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(net: &str) -> AddressPool {
        AddressPool::new(net.parse().unwrap(), 4, 1)
    }

    #[test]
    fn the_first_four_and_the_last_are_reserved() {
        let mut p = pool("10.0.0.0/29");
        assert_eq!(p.free(), 3);
        let all: Vec<String> = p.take(3).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(p.take(1), None);
    }

    #[test]
    fn all_or_nothing() {
        let mut p = pool("10.0.0.0/29");
        assert_eq!(p.take(4), None);
        assert_eq!(p.free(), 3);
    }

    #[test]
    fn released_addresses_come_back_last_and_in_order() {
        let mut p = pool("10.0.0.0/28");
        let first = p.take(3).unwrap();
        assert!(p.release(first[1]));
        assert!(p.release(first[0]));
        assert!(!p.release(first[0]), "released twice");
        let fresh = p.take(8).unwrap();
        assert!(fresh.iter().all(|a| !first.contains(a)), "{fresh:?}");
        assert_eq!(p.take_one(), Some(first[1]));
        assert_eq!(p.take_one(), Some(first[0]));
        assert_eq!(p.take_one(), None);
    }

    #[test]
    fn ipv6_addresses() {
        let mut p = pool("2001:db8::/64");
        assert_eq!(p.take_one().unwrap().to_string(), "2001:db8::4");
        assert_eq!(pool("2001:db8::/125").free(), 3);
        assert!(!p.release("10.0.0.1".parse().unwrap()));
        assert!(!p.release("2001:db7::1".parse().unwrap()));
    }

    proptest! {
        /// Whatever is taken and released: no address is out twice, free + used is constant, all are in range.
        #[test]
        fn conserves_addresses(steps in prop::collection::vec((any::<bool>(), 0_usize..6), 0..200)) {
            let net: IpNet = "10.9.0.0/27".parse().unwrap();
            let mut p = AddressPool::new(net, 4, 1);
            let mut out: Vec<IpAddr> = Vec::new();
            for (take, n) in steps {
                if take {
                    let before = p.free();
                    match p.take(n) {
                        Some(got) => { prop_assert_eq!(got.len(), n); out.extend(got); }
                        None => { prop_assert!(before < n as u128); prop_assert_eq!(p.free(), before); }
                    }
                } else if !out.is_empty() {
                    let address = out.remove(n % out.len());
                    prop_assert!(p.release(address));
                }
                prop_assert_eq!(p.free() + out.len() as u128, 27);
                prop_assert!(out.iter().all(|a| net.contains(a)));
                prop_assert_eq!(out.iter().collect::<BTreeSet<_>>().len(), out.len());
            }
        }
    }
}
