//! Rows as a table for people, or as JSON or YAML for programs: the same fields in all three.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;

/// Form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// A JSON array.
    Json,
    /// A YAML list.
    Yaml,
}

/// Something that a table can show.
pub trait Row: Serialize {
    /// Titles of the columns.
    const HEADER: &'static [&'static str];
    /// One cell for each title.
    fn cells(&self) -> Vec<String>;
}

/// Prints rows to standard output.
pub fn print<R: Row>(rows: &[R], format: Format) -> anyhow::Result<()> {
    write(&render(rows, format)?)
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
pub fn write(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
}

fn render<R: Row>(rows: &[R], format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(rows).context("write JSON")? + "\n",
        Format::Yaml => serde_norway::to_string(rows).context("write YAML")?,
        Format::Table => {
            let mut table = Table::new();
            table.load_style(NOTHING).set_header(R::HEADER);
            for row in rows {
                table.add_row(row.cells());
            }
            table
                .trim_fmt()
                .lines()
                .map(|line| line.trim_end().to_owned() + "\n")
                .collect()
        }
    })
}

/// A cell for what may be absent.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
