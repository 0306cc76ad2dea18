//! Tests that need root or a program say so when they cannot run; in CI that is a failure.

use std::path::Path;

/// Whether the test can run; prints why not.
pub fn available(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !Path::new(program).exists());
    let reason = match missing {
        _ if !rustix::process::geteuid().is_root() => "needs root".to_owned(),
        Some(program) => format!("needs {program}"),
        None => return true,
    };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} {reason}"
    );
    println!("SKIP {test}: {reason}");
    false
}
