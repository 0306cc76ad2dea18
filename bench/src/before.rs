//! Two builds in one run. Each has a node of its own, in a process of its own, and they take turns within each round, a few
//! calls at a time: what the machine does meanwhile meets both, however slowly it changes. Whose turn it is not waits.
//!
//! ```text
//!   parent ── a line ─▶ build ── works ── a line ─▶ parent ── a line ─▶ earlier build ...     until both have ended
//! ```

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::stats::Row;

/// Tells a process that it is one of two.
pub const FLAG: &str = "--in-turns";
const LINE: &[u8] = b"turn\n";

/// Ends one's turn, and waits for the next.
pub fn pass() -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(LINE).context("end a turn")?;
    out.flush().context("end a turn")?;
    wait()
}

/// Waits for one's turn.
pub fn wait() -> Result<()> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    ensure!(read.context("wait for a turn")? > 0, "the parent is gone");
    Ok(())
}

/// One of the two.
struct Build {
    child: Child,
    turn: ChildStdin,
    done: BufReader<ChildStdout>,
    rows: PathBuf,
}

impl Build {
    /// Starts one with the arguments of this process, on other binaries and with a result of its own.
    fn start(bin: &Path, rows: PathBuf) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .arg("--bin")
            .arg(bin)
            .arg("--out")
            .arg(&rows)
            .arg(FLAG)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a build's measurement")?;
        let turn = child.stdin.take().context("standard input")?;
        let done = BufReader::new(child.stdout.take().context("standard output")?);
        Ok(Self {
            child,
            turn,
            done,
            rows,
        })
    }

    /// Lets it work for a turn; whether it has another.
    fn turn(&mut self) -> Result<bool> {
        self.turn.write_all(LINE).context("give a turn")?;
        let mut line = String::new();
        Ok(self.done.read_line(&mut line).context("await a turn")? > 0)
    }

    /// What it measured.
    fn rows(mut self) -> Result<Vec<Row>> {
        let status = self.child.wait().context("await a build's measurement")?;
        ensure!(status.success(), "a build's measurement: {status}");
        let text = std::fs::read(&self.rows).with_context(|| self.rows.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| self.rows.display().to_string())
    }
}

/// The rows of `bin`, with those of `before` in the peer's column.
pub fn measure(bin: &Path, before: &Path, out: &Path) -> Result<Vec<Row>> {
    let mut builds = [
        Build::start(bin, out.with_extension("now.json"))?,
        Build::start(before, out.with_extension("before.json"))?,
    ];
    let mut working = [true; 2];
    while working.contains(&true) {
        for (build, works) in builds.iter_mut().zip(&mut working) {
            if *works {
                *works = build.turn()?;
            }
        }
    }
    let [now, then] = builds;
    let (now, then) = (now.rows()?, then.rows()?);
    let row = |row: Row| {
        let peer = then.iter().find(|other| other.name == row.name);
        let peer = peer.and_then(|other| other.ours).map(|v| ("before", v));
        Row::new(&row.name, &row.unit, row.ours, peer, row.floor, row.n)
    };
    Ok(now.into_iter().map(row).collect())
}
