//! What is known not to hold, and why. A test demands that exactly these cases fail.

use crate::case::Case;
use crate::run::Report;

/// A case that plugins fail.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// Names of the subjects.
    pub subjects: &'static [&'static str],
    /// Name of the case.
    pub case: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Where the plugin loses a race of its own, which not every run sees: what the failure says when one does.
    pub race: Option<&'static str>,
}

const BOTH: &[&str] = &["ptp", "bridge"];
const PTP: &[&str] = &["ptp"];

const fn gap(subjects: &'static [&'static str], case: &'static str, reason: &'static str) -> Gap {
    Gap {
        subjects,
        case,
        reason,
        race: None,
    }
}

impl Gap {
    const fn race(mut self, says: &'static str) -> Self {
        self.race = Some(says);
        self
    }

    /// Whether this is what a run saw that ended with these failures of the case (none: it passed).
    #[must_use]
    pub fn explains(&self, failures: &[String]) -> bool {
        match self.race {
            Some(says) => failures.iter().all(|failure| failure.contains(says)),
            None => !failures.is_empty(),
        }
    }
}

/// All known gaps.
pub const GAPS: &[Gap] = &[
    // The reference's plugin library, as Debian 12 has it.
    gap(
        BOTH,
        "the_error_has_a_version",
        "the library's errors have no `cniVersion`",
    ),
    gap(
        BOTH,
        "version_that_is_no_version",
        "it compares texts: any that it does not list is unsupported, code 1",
    ),
    gap(
        BOTH,
        "version_answers_in_the_version_of_the_input",
        "it answers in its newest version, and reads no input",
    ),
    gap(
        BOTH,
        "gc_before_1_1_0",
        "older than the command: unknown, code 4",
    ),
    gap(
        BOTH,
        "status_before_1_1_0",
        "older than the command: unknown, code 4",
    ),
    gap(
        BOTH,
        "add_into_its_own_namespace_is_refused",
        "this version does not look whose namespace it is",
    ),
    gap(
        BOTH,
        "del_in_its_own_namespace_touches_nothing",
        "this version does not look whose namespace it is",
    ),
    gap(
        BOTH,
        "malformed_cni_args_do_not_stop_del",
        "host-local decodes CNI_ARGS at DEL too",
    ),
    gap(
        BOTH,
        "an_empty_dns_is_left_out",
        "the type of this version always writes it",
    ),
    gap(
        BOTH,
        "a_failure_names_the_trace",
        "older than the variables",
    ),
    gap(
        BOTH,
        "check_needs_prev_result",
        "the code is 999, that of any error without a code",
    ),
    // The plugins.
    gap(
        BOTH,
        "without_an_address_left_it_says_try_again",
        "host-local's error has no code of its own: 999",
    ),
    gap(
        BOTH,
        "a_prev_result_of_the_version_is_accepted",
        "made to be the first of a chain: what came before is lost",
    ),
    gap(
        BOTH,
        "interface_index_0_and_no_index_are_handed_on",
        "made to be the first of a chain: what came before is lost",
    ),
    gap(
        BOTH,
        "del_with_a_namespace_that_is_none",
        "only a path that does not exist is taken for a namespace that is gone",
    ),
    gap(
        BOTH,
        "a_namespaces_path_that_is_anothers_by_now",
        "DEL removes whatever has the name in whatever is at the path",
    ),
    gap(
        BOTH,
        "del_of_another_network_leaves_the_container",
        "DEL removes the interface by name, of whatever network it is",
    ),
    gap(
        BOTH,
        "check_with_another_mtu",
        "CHECK does not look at the MTU",
    ),
    gap(
        BOTH,
        "a_delegate_that_failed_gets_a_del",
        "a delegate whose ADD failed is left to the runtime's DEL",
    ),
    gap(
        BOTH,
        "dels_at_the_same_time",
        "a DEL that found the interface fails where another removes it before",
    )
    .race(r#"failed to delete \\\"eth0\\\": no such device"#),
    gap(
        PTP,
        "a_mac_by_request_is_honoured_or_refused",
        "a MAC by request is ignored",
    ),
];

/// What is known of a case and a subject.
#[must_use]
pub fn of(subject: &str, case: &Case) -> Option<&'static Gap> {
    GAPS.iter()
        .find(|gap| gap.case == case.name && gap.subjects.contains(&subject))
}

/// The race that decides how this case ends: it says nothing of the plugin how it ended this time.
#[must_use]
pub fn race(report: &Report, case: &Case) -> Option<&'static Gap> {
    of(&report.subject, case)
        .filter(|gap| gap.race.is_some() && gap.explains(&report.why(case.name)))
}
