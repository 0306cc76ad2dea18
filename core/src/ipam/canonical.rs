//! One form for pools that behave alike, so that a search over all states (`model/`) knows a state that it has seen.

use std::net::IpAddr;

use super::pool::{AddressState, Pool};
use crate::types::Millis;

impl Pool {
    /// Numbers the queue of free addresses anew and forgets what has no effect from `now` on. Two pools that behave alike
    /// from `now` on become equal; what this one does does not change.
    pub fn canonicalise(&mut self, now: Millis) {
        self.forget_old_reservations(now);
        let mut queue: Vec<(u64, IpAddr)> = Vec::new();
        for (ip, slot) in &mut self.slots {
            if matches!(slot.state, AddressState::Free) {
                queue.push((slot.free_since, *ip));
            }
            slot.free_since = 0;
            slot.lost &= matches!(slot.state, AddressState::Bound(_));
        }
        queue.sort_unstable();
        self.sequence = 0;
        for (_, ip) in queue {
            self.sequence += 1;
            if let Some(slot) = self.slots.get_mut(&ip) {
                slot.free_since = self.sequence;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, key};
    use super::super::{Action, Input, NicSupply};
    use super::*;
    use crate::types::{Families, NicId};

    fn pool(addresses: &[&str]) -> Pool {
        let mut pool = Pool::new(config(Families::V4));
        let supply = NicSupply {
            nic: NicId("eni-0".to_owned()),
            usable: true,
            device_index: 0,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        pool.handle(Millis(0), Input::Supply(vec![supply]));
        pool
    }

    #[test]
    fn pools_that_behave_alike_become_equal_and_go_on_as_before() {
        // One went round more often than the other; both have the same queue.
        let mut fresh = pool(&["10.0.0.1", "10.0.0.2"]);
        let mut used = pool(&["10.0.0.1", "10.0.0.2"]);
        for n in [0, 1, 2, 3] {
            used.handle(Millis(0), Input::Reserve(key(n)));
            used.handle(Millis(0), Input::Abandon(key(n)));
        }
        let later = Millis(1_000_000);
        used.handle(later, Input::Tick);
        assert_ne!(fresh, used);
        fresh.canonicalise(later);
        used.canonicalise(later);
        assert_eq!(fresh, used);
        let actions = used.handle(later, Input::Reserve(key(9)));
        assert_eq!(actions, fresh.handle(later, Input::Reserve(key(9))));
        let Some(Action::Assign(_, first)) = actions.first() else {
            panic!("{actions:?}")
        };
        assert_eq!(first[0].ip, "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn another_order_of_use_stays_another_pool() {
        let mut one = pool(&["10.0.0.1", "10.0.0.2"]);
        let mut other = pool(&["10.0.0.2", "10.0.0.1"]);
        one.canonicalise(Millis(0));
        other.canonicalise(Millis(0));
        assert_ne!(one, other);
    }
}
