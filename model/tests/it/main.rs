//! Every size is explored to the end and no invariant is broken; every seeded mistake is found by the invariant that it
//! breaks.

use tombolo_model::protocol::Bug;
use tombolo_model::size::{LARGE, SMALL, Size};
use tombolo_model::{AGREED, UNIQUE, UNLOST, UNTAKEN};

fn size(name: &str) -> &'static Size {
    let found = SMALL.iter().find(|size| size.name == name);
    found.unwrap_or_else(|| panic!("no size {name:?}"))
}

/// `TOMBOLO_MODEL=large` takes the sizes for which nobody waits, any other word those with the word in their name.
fn wanted() -> Vec<&'static Size> {
    match std::env::var("TOMBOLO_MODEL") {
        Err(_) => SMALL.iter().collect(),
        Ok(word) if word == "large" => LARGE.iter().collect(),
        Ok(word) => {
            let all = SMALL.iter().chain(LARGE);
            all.filter(|size| size.name.contains(&word)).collect()
        }
    }
}

#[test]
fn no_invariant_is_broken() {
    let sizes = wanted();
    assert!(!sizes.is_empty(), "no size has this name");
    for size in sizes {
        let outcome = size.explore(None);
        println!("{outcome}");
        for (name, way) in &outcome.broken {
            println!("{name}:\n{way}");
        }
        assert!(outcome.broken.is_empty(), "{}", size.name);
    }
}

#[test]
fn every_seeded_mistake_is_found() {
    let cases = [
        (Bug::JournalForgotten, UNIQUE, "an agent ends"),
        (
            Bug::SpecWrittenBlindly,
            UNTAKEN,
            "two operators at once, a copy is old",
        ),
        (
            Bug::TermNotWritten,
            UNTAKEN,
            "two operators at once, a copy is old",
        ),
        (
            Bug::TermNotWritten,
            AGREED,
            "two operators at once, a copy is old",
        ),
        (Bug::TakingForgotten, UNTAKEN, "an operator ends"),
        (Bug::ConsentIgnored, AGREED, "two nodes and three addresses"),
        (
            Bug::OutcomeNotRead,
            UNLOST,
            "answers are lost, calls repeated",
        ),
        (Bug::RemovalNotResumed, UNLOST, "an agent ends"),
    ];
    for (bug, invariant, name) in cases {
        let outcome = size(name).explore(Some((bug, invariant)));
        println!("{outcome}: {bug:?}");
        let found = outcome.broken.iter().find(|(name, _)| *name == invariant);
        let (_, way) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {name:?}"));
        println!("{way}");
    }
}
