//! The table at the end: check, result, seconds.

use std::fmt;
use std::time::Instant;

use anyhow::Result;

/// What was checked so far.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    /// Longer texts that follow the table.
    pub notes: Vec<String>,
}

#[derive(Debug)]
struct Row {
    name: String,
    seconds: f64,
    result: Result<String, String>,
}

impl Report {
    /// Runs something, takes its time, and keeps and prints how it went.
    pub fn take<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Option<T> {
        let begin = Instant::now();
        let (value, result) = match work() {
            Ok((value, detail)) => (Some(value), Ok(detail)),
            Err(error) => (None, Err(format!("{error:#}"))),
        };
        let seconds = begin.elapsed().as_secs_f64();
        match &result {
            Ok(detail) => println!("ok     {name:<14} {seconds:6.1} s  {detail}"),
            Err(error) => println!("FAILED {name:<14} {seconds:6.1} s  {error}"),
        }
        self.rows.push(Row {
            name: name.to_owned(),
            seconds,
            result,
        });
        value
    }

    /// Whether something does not hold.
    pub fn failed(&self) -> bool {
        self.rows.iter().any(|row| row.result.is_err())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table
            .load_style(comfy_table::presets::NOTHING)
            .set_header(["check", "result", "seconds", ""]);
        for row in &self.rows {
            let (result, detail) = match &row.result {
                Ok(detail) => ("ok", detail.clone()),
                Err(error) => ("FAILED", error.chars().take(160).collect()),
            };
            table.add_row([
                row.name.clone(),
                result.to_owned(),
                format!("{:.1}", row.seconds),
                detail,
            ]);
        }
        writeln!(f, "\n{table}")?;
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        let (ok, all) = (
            self.rows.iter().filter(|r| r.result.is_ok()).count(),
            self.rows.len(),
        );
        let seconds: f64 = self.rows.iter().map(|r| r.seconds).sum();
        write!(f, "\ne2e: {ok} of {all} ok in {seconds:.0} s")
    }
}
