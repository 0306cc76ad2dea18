//! One planted bug of each kind: a runner that cannot fail proves nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tombolo_fuzz::{Budget, Failure, Found, Target};

/// A folder of this test's own below the test programs, empty.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{test}"));
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn failure(found: &Found) -> &Failure {
    found.failure.as_ref().unwrap()
}

#[test]
fn a_panic_is_found_made_small_kept_and_replayed() {
    let corpus = folder("panic");
    std::fs::write(corpus.join("good"), br#"{"name":"x","count":3}"#).unwrap();
    let decode = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains("[]"), "planted");
    };
    let target = Target::new("planted-panic").corpus(&corpus);
    let found = target.run(&Budget::runs(20_000, &[1]), decode).unwrap_err();
    assert!(
        matches!(failure(&found), Failure::Panic { message, place }
            if message == "planted" && place.contains("planted.rs:")),
        "{found}"
    );
    assert_eq!(found.input, b"[]");
    assert_eq!(found.seed, Some(1));
    let kept = found.kept.unwrap();
    assert_eq!(std::fs::read(&kept).unwrap(), b"[]");
    // Without any mutation the kept input fails again.
    let again = target.run(&Budget::runs(0, &[]), decode).unwrap_err();
    assert_eq!((again.seed, again.kept), (None, Some(kept)));
    // The bug mended, it is one more input that passes.
    let report = target.run(&Budget::runs(10, &[1]), |_| {}).unwrap();
    assert_eq!((report.kept, report.runs), (2, 10));
}

#[test]
fn an_overflow_is_found() {
    let corpus = folder("overflow");
    std::fs::write(corpus.join("good"), [1, 2]).unwrap();
    let decode = |bytes: &[u8]| {
        if let [a, b] = bytes {
            std::hint::black_box(a + b);
        }
    };
    let target = Target::new("planted-overflow").corpus(corpus);
    let found = target.run(&Budget::runs(20_000, &[1]), decode).unwrap_err();
    assert!(found.to_string().contains("overflow"), "{found}");
}

#[test]
fn too_much_memory_is_found() {
    let corpus = folder("heap");
    std::fs::write(corpus.join("good"), [0, 0, 0, 0]).unwrap();
    let decode = |bytes: &[u8]| {
        if let Some(length) = bytes.first_chunk::<4>() {
            let length = usize::try_from(u32::from_le_bytes(*length) % (64 << 20)).unwrap();
            drop(std::hint::black_box(Vec::<u8>::with_capacity(length)));
        }
    };
    let target = Target::new("planted-heap").corpus(corpus);
    let found = target.run(&Budget::runs(20_000, &[1]), decode).unwrap_err();
    assert!(
        matches!(failure(&found), Failure::Heap { peak, limit } if peak > limit && *limit > 1 << 20),
        "{found}"
    );
}

#[test]
fn too_much_time_is_found() {
    let corpus = folder("slow");
    std::fs::write(corpus.join("good"), b"").unwrap();
    // Takes what its own limit does not allow, whatever the machine.
    let decode = |bytes: &[u8]| {
        let begun = Instant::now();
        while bytes.len() > 3 && begun.elapsed() <= Duration::from_millis(20) {}
    };
    let target = Target::new("planted-slow")
        .corpus(corpus)
        .patience(Duration::from_millis(10), Duration::from_secs(60));
    // The machine may be slow at any input; the planted one is found at the latest when it comes.
    let found = target.run(&Budget::runs(20_000, &[1]), decode).unwrap_err();
    assert!(matches!(failure(&found), Failure::Slow { .. }), "{found}");
}

/// Runs a planted test in a process of its own, which will die of it.
fn process(test: &str, corpus: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("PLANTED_CORPUS", corpus)
        .output()
        .unwrap()
}

fn planted_corpus() -> PathBuf {
    let set = std::env::var_os("PLANTED_CORPUS");
    set.map_or_else(|| folder("by-hand"), PathBuf::from)
}

#[test]
#[ignore = "dies: run by a_target_that_never_returns_is_ended"]
fn never_returns() {
    let target = Target::new("planted-hang")
        .corpus(planted_corpus())
        .patience(Duration::from_secs(4), Duration::from_millis(400));
    target.check(|bytes| while bytes.len() > 3 {});
}

#[test]
fn a_target_that_never_returns_is_ended() {
    let corpus = folder("hang");
    let output = process("planted::never_returns", &corpus);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("has not returned"), "{said}");
    let kept = files(&corpus);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(std::fs::read(&kept[0]).unwrap().len() > 3);
}

#[test]
#[ignore = "dies: run by an_input_that_kills_the_process_is_found_by_the_next"]
fn kills_the_process() {
    let target = Target::new("planted-death").corpus(planted_corpus());
    target.check(|bytes| {
        if bytes.len() > 3 {
            // What a decoder does that believes a length: the allocator refuses, the process ends.
            drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 40)));
        }
    });
}

#[test]
fn an_input_that_kills_the_process_is_found_by_the_next() {
    let corpus = folder("death");
    let first = process("planted::kills_the_process", &corpus);
    assert!(!first.status.success());
    assert_eq!(files(&corpus), [] as [PathBuf; 0]);
    // The next one finds what the first left behind, keeps it, and dies of it as well.
    let second = process("planted::kills_the_process", &corpus);
    assert!(!second.status.success());
    let kept = files(&corpus);
    assert_eq!(kept.len(), 1, "{kept:?}");
    // What was underway when the process ended for another reason is not kept.
    let report = Target::new("planted-death")
        .corpus(&corpus)
        .run(&Budget::runs(0, &[]), |_| {})
        .unwrap();
    assert_eq!(report.kept, 1);
    assert_eq!(files(&corpus).len(), 1);
}
