//! The rules that a kernel makes for every namespace: they lead to its tables local, main and default. `ip rule flush` takes
//! main and default away, and the node has no way to anywhere. They are the system's: what is missing comes back as the
//! kernel made it (same priority, protocol kernel), and none is ever removed or moved by us.
//!
//! An administrator may ask one of these tables elsewhere in the list (with VRFs, local moves behind 1000). So a table counts
//! as asked if any rule that matches every packet looks it up.

use std::collections::BTreeSet;

use super::conventions::MAIN_TABLE;
use crate::types::Family;

const LOCAL_TABLE: u32 = 255;
const DEFAULT_TABLE: u32 = 253;

/// Whether a kernel asks this table of its own accord.
#[must_use]
pub const fn is_system_table(table: u32) -> bool {
    matches!(table, DEFAULT_TABLE..=LOCAL_TABLE)
}

/// One of the kernel's own rules: every packet, ask this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SystemRule {
    /// Family.
    pub family: Family,
    /// Priority.
    pub priority: u32,
    /// Table that it asks.
    pub table: u32,
}

/// Those of `families` whose table nothing asks. `asked`: tables that a rule for every packet looks up.
#[must_use]
pub fn missing(
    families: impl Iterator<Item = Family>,
    asked: &BTreeSet<(Family, u32)>,
) -> Vec<SystemRule> {
    families
        .flat_map(of_kernel)
        .filter(|rule| !asked.contains(&(rule.family, rule.table)))
        .collect()
}

/// What a new namespace has.
fn of_kernel(family: Family) -> impl Iterator<Item = SystemRule> {
    let rules = [
        (0, LOCAL_TABLE),
        (32_766, MAIN_TABLE),
        (32_767, DEFAULT_TABLE),
    ];
    // IPv6 has no table default.
    let count = match family {
        Family::V4 => 3,
        Family::V6 => 2,
    };
    let rule = move |(priority, table)| SystemRule {
        family,
        priority,
        table,
    };
    rules.into_iter().take(count).map(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_asks_comes_back_as_the_kernel_had_it() {
        let all: BTreeSet<(Family, u32)> = [
            (Family::V4, 255),
            (Family::V4, 254),
            (Family::V4, 253),
            (Family::V6, 255),
            (Family::V6, 254),
        ]
        .into();
        assert_eq!(missing(Family::ALL.into_iter(), &all), []);
        let bare: Vec<_> = missing(Family::ALL.into_iter(), &BTreeSet::new())
            .into_iter()
            .map(|rule| (rule.family, rule.priority, rule.table))
            .collect();
        assert_eq!(
            bare,
            [
                (Family::V4, 0, 255),
                (Family::V4, 32_766, 254),
                (Family::V4, 32_767, 253),
                (Family::V6, 0, 255),
                (Family::V6, 32_766, 254),
            ]
        );
        // One that is asked elsewhere in the list is left there, and a family that is not ours alone.
        let moved = BTreeSet::from([(Family::V4, 255), (Family::V4, 254)]);
        let found = missing([Family::V4].into_iter(), &moved);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].table, 253);
    }
}
