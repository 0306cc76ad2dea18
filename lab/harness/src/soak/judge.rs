//! First tenth against last tenth. Pure.

use super::sample::Sample;

/// How much more of something there may be at the end.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What was counted.
    pub name: &'static str,
    /// Hundredths of what there was.
    pub percent: u64,
    /// On top of that.
    pub more: u64,
}

const fn row(name: &'static str, percent: u64, more: u64) -> Row {
    Row {
        name,
        percent,
        more,
    }
}

/// Everything that is counted. What the kernel and the files hold must be the same; an allocator, a runtime's
/// pool of threads and a client's of connections may keep a little of what a round needed.
pub const ROWS: [Row; 17] = [
    row("agent RSS, KiB", 5, 2048),
    row("agent fds", 0, 6),
    row("agent threads", 0, 8),
    row("operator RSS, KiB", 5, 2048),
    row("operator fds", 0, 6),
    row("operator threads", 0, 8),
    row("journal files", 0, 0),
    row("journal bytes", 1, 0),
    row("links", 0, 0),
    row("rules", 0, 0),
    row("routes", 0, 0),
    row("permanent neighbours", 0, 0),
    row("nft rules, sets, chains", 0, 0),
    row("nft elements", 0, 0),
    row("connections to pods", 0, 0),
    row("PodEndpoints", 0, 0),
    row("Enis", 0, 0),
];

/// Means of a row over the first and over the last tenth of the samples (at least one each).
fn tenths(samples: &[Sample], row: &Row) -> (f64, f64) {
    let part = samples.len().div_ceil(10).max(1).min(samples.len());
    let mean = |samples: &[Sample]| {
        let all = samples.iter().map(|s| s.counts.get(row.name).copied());
        // What was not counted is a defect that must show.
        let sum: f64 = all.map(|n| n.map_or(f64::NAN, as_f64)).sum();
        sum / as_f64(samples.len() as u64)
    };
    let last = samples.len() - part;
    (mean(&samples[..part]), mean(&samples[last..]))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts are far below 2 to the 52"
)]
const fn as_f64(n: u64) -> f64 {
    n as f64
}

fn flat(row: &Row, (first, last): (f64, f64)) -> bool {
    // Half of a thing: means of counts that are the same differ by nothing.
    let more = as_f64(row.more).max(0.5);
    last <= first + first * as_f64(row.percent) / 100.0 + more
}

/// A line for each row that is not flat; empty samples are not flat.
#[must_use]
pub fn grown(samples: &[Sample]) -> Vec<String> {
    let tell = |row: &Row| {
        let means = tenths(samples, row);
        (!flat(row, means)).then(|| {
            format!(
                "{} grew from {:.1} to {:.1}; {} % and {} more are allowed",
                row.name, means.0, means.1, row.percent, row.more
            )
        })
    };
    ROWS.iter().filter_map(tell).collect()
}

/// All rows, for people.
#[must_use]
pub fn table(samples: &[Sample]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.set_header(["What", "First tenth", "Last tenth", "Most", "Allowed", ""]);
    for row in &ROWS {
        let means = tenths(samples, row);
        let most = samples.iter().filter_map(|s| s.counts.get(row.name)).max();
        table.add_row([
            row.name.to_owned(),
            format!("{:.1}", means.0),
            format!("{:.1}", means.1),
            most.map(ToString::to_string).unwrap_or_default(),
            match (row.percent, row.more) {
                (0, 0) => "the same".to_owned(),
                (percent, more) => format!("+{percent} % +{more}"),
            },
            if flat(row, means) { "flat" } else { "GREW" }.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 samples in which one row begins at `first` and grows by `step` with each.
    fn samples(grows: &'static str, first: u64, step: u64) -> Vec<Sample> {
        let sample = |n: u64| Sample {
            after: 0,
            counts: ROWS
                .iter()
                .map(|row| {
                    let more = if row.name == grows { n * step } else { 0 };
                    (row.name, first + more)
                })
                .collect(),
        };
        (0..40).map(sample).collect()
    }

    #[test]
    fn what_stays_is_flat() {
        for count in [0, 1, 100, 50_000] {
            assert_eq!(grown(&samples("", count, 0)), Vec::<String>::new());
        }
    }

    #[test]
    fn each_row_that_grows_is_found() {
        for row in &ROWS {
            // Memory by 2 percent of what there was, other things by one, a round.
            let step = if row.more > 1000 { 1000 } else { 1 };
            let told = grown(&samples(row.name, 50, step));
            assert_eq!(told.len(), 1, "{}: {told:?}", row.name);
            assert!(told[0].starts_with(row.name), "{told:?}");
        }
    }

    #[test]
    fn what_was_not_counted_is_not_flat() {
        assert_eq!(grown(&[]).len(), ROWS.len());
        let mut some = samples("", 1, 0);
        some[39].counts.remove("rules");
        assert_eq!(grown(&some).len(), 1);
    }

    #[test]
    fn the_first_tenth_may_be_higher() {
        let mut falling = samples("links", 1, 5);
        falling.reverse();
        assert_eq!(grown(&falling), Vec::<String>::new());
    }
}
