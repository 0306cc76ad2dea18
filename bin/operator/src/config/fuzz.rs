//! Flags, a line each, as nobody writes them: the flag at fault is named, or what they say can be used.

use tombolo_fuzz::Target;

use super::*;
use crate::cloud::Budget;

#[test]
fn durations() {
    Target::new("operator-duration").check(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(read) = duration(&text) {
            let seconds = read.as_secs();
            assert!(
                seconds <= u64::from(u32::MAX) * 3600,
                "{text} is {seconds} s"
            );
        }
    });
}

#[test]
fn flags() {
    let words = &[
        "--cloud-rate",
        "--cloud-burst",
        "--cloud-timeout",
        "--resync",
        "--backoff-max",
        "--backoff-base",
        "--lease-duration",
        "--lease-renew",
        "--api-server",
        "--metrics-listen",
        "4294967295h",
        "4294967296ms",
        "1e-300",
        "inf",
        "0",
        "\n",
    ];
    Target::new("operator-config")
        .words(words)
        .runs(300)
        .check(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let all = std::iter::once("tombolo-operator").chain(text.split('\n'));
            let Ok(args) = Args::try_parse_from(all) else {
                return;
            };
            match args.validate() {
                Err(error) => assert!(error.to_string().starts_with("--")),
                Ok(config) => {
                    let budget = Budget::new(config.cloud_calls.rate, config.cloud_calls.burst);
                    let now = tokio::time::Instant::now();
                    for _ in 0..3 {
                        assert!(budget.reserve(now) >= now);
                    }
                    assert!(config.lease.duration >= config.lease.renew * 2);
                }
            }
        });
}
