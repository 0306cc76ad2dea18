//! Flags, a line each, as nobody writes them: the flag at fault is named, or what they say can be used.

use tombolo_fuzz::Target;

use super::*;

#[test]
fn flags() {
    let words = &[
        "run",
        "uninstall",
        "--node-name",
        "--run-dir",
        "--nrs-file",
        "--api-server",
        "--http",
        "--metrics-listen",
        "--cni-conf-dir",
        "--cni-network-name",
        "--max-pods",
        "--resync-ms",
        "--debounce-ms",
        "--failpoint",
        "18446744073709551615",
        "\n",
    ];
    Target::new("agent-config")
        .words(words)
        .runs(300)
        .check(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let all = std::iter::once("tombolo-agent").chain(text.split('\n'));
            let Ok(Cli {
                command: Command::Run(args),
                ..
            }) = Cli::try_parse_from(all)
            else {
                return;
            };
            match Config::try_from(args.as_ref()) {
                Err(error) => assert!(error.to_string().starts_with("--")),
                Ok(config) => {
                    assert!(config.run_dir.is_absolute());
                    let begun = std::time::Instant::now();
                    for wait in [config.resync, config.debounce, config.status_debounce] {
                        assert!(begun.checked_add(wait).is_some(), "{wait:?} has no end");
                    }
                }
            }
        });
}
