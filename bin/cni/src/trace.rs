//! The trace of which a call is part: newer runtimes set it. A failure names it, so that who follows the trace finds our log.

use std::ffi::OsString;
use std::fmt::Write;

/// Characters of each variable at most.
const MAX: usize = 256;

/// The variables of the trace that are set, escaped and cut for a log line; `None` where there are none.
pub fn of_environment(lookup: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    let mut text = String::new();
    for name in ["TRACEPARENT", "TRACESTATE", "BAGGAGE"] {
        if let Some(value) = lookup(name).filter(|value| !value.is_empty()) {
            let value: String = value.to_string_lossy().chars().take(MAX).collect();
            let blank = if text.is_empty() { "" } else { " " };
            // Writing to a string cannot fail.
            let _infallible = write!(text, "{blank}{name}={value:?}");
        }
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_set_in_one_bounded_line() {
        let with = |parent: &str, baggage: &str| {
            of_environment(|name| match name {
                "TRACEPARENT" => Some(parent.into()),
                "BAGGAGE" => Some(baggage.into()),
                _ => None,
            })
        };
        assert_eq!(with("", ""), None);
        assert_eq!(
            with("00-a-b-01", ""),
            Some(r#"TRACEPARENT="00-a-b-01""#.into())
        );
        let long = with("a\nb", &"x".repeat(5000)).unwrap();
        assert!(
            long.starts_with(r#"TRACEPARENT="a\nb" BAGGAGE="xxx"#),
            "{long}"
        );
        assert_eq!(long.lines().count(), 1);
        assert!(long.len() < 3 * MAX, "{}", long.len());
    }
}
