//! What a CNI plugin must do, as numbered statements, each split into claims that can hold or fail by themselves. Sources are the
//! specification (CNI 1.1.0 and earlier), what libcni and the reference's plugin library enforce, and what runtimes rely on.

/// One thing that holds or does not.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Number of its statement and a letter.
    pub id: &'static str,
    /// What must hold.
    pub text: &'static str,
    /// Why no case of a black-box suite can show it, where that is so.
    pub untestable: Option<&'static str>,
}

/// A numbered statement.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// What it is about.
    pub title: &'static str,
    /// Its claims.
    pub claims: &'static [Claim],
}

const fn claim(id: &'static str, text: &'static str) -> Claim {
    Claim {
        id,
        text,
        untestable: None,
    }
}

const fn untestable(id: &'static str, text: &'static str, why: &'static str) -> Claim {
    Claim {
        id,
        text,
        untestable: Some(why),
    }
}

const fn statement(title: &'static str, claims: &'static [Claim]) -> Statement {
    Statement { title, claims }
}

/// All statements, in order.
pub const STATEMENTS: &[Statement] = &[
    statement(
        "1. Exit code and streams",
        &[
            claim("1a", "success exits 0, failure does not"),
            claim("1b", "a failure's error object is on stdout"),
            claim("1c", "nothing but the object is on stdout"),
        ],
    ),
    statement(
        "2. What success prints",
        &[
            claim("2a", "ADD: exactly one JSON object"),
            claim("2b", "DEL: nothing"),
            claim("2c", "CHECK: nothing"),
            claim("2d", "GC: nothing"),
            claim("2e", "STATUS: nothing"),
        ],
    ),
    statement(
        "3. The error object",
        &[
            claim("3a", "it has a numeric `code` and a text `msg`"),
            claim("3b", "it has `cniVersion`"),
            claim(
                "3c",
                "a request that it does not support: 2, naming key and value",
            ),
            claim("3d", "input that cannot be read: 5"),
            claim("3e", "no address left: 11, try again later"),
            claim("3f", "codes of its own are 100 and more; 999 is never used"),
            untestable(
                "3g",
                "3 (unknown container) is never used where something was allocated",
                "that a code is never used cannot be shown by trying; no case sees it from a plugin that this suite drives",
            ),
        ],
    ),
    statement(
        "4. Commands and missing variables",
        &[
            claim(
                "4a",
                "all missing variables are named in one message, code 4",
            ),
            claim("4b", "an unknown command: 4"),
            claim(
                "4c",
                "no command: what it is and its versions on stderr, exit 0",
            ),
        ],
    ),
    statement(
        "5. Which variables a command needs",
        &[
            claim("5a", "ADD: CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
            claim("5b", "CHECK: CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
            claim("5c", "DEL: CNI_CONTAINERID, CNI_IFNAME; not CNI_NETNS"),
            claim("5d", "GC and STATUS: none of them"),
            claim("5e", "VERSION: only CNI_COMMAND"),
            claim("5f", "CNI_PATH only where it delegates"),
        ],
    ),
    statement(
        "6. Names",
        &[
            claim(
                "6a",
                "a container id begins with a letter or digit and holds only these, `_`, `.`, `-`",
            ),
            claim("6b", "so does the name of a network"),
            claim(
                "6c",
                "an interface name has at most 15 bytes, is not `.` or `..`, holds no `/`, `:`, blank",
            ),
            claim("6d", "names of full length are taken"),
        ],
    ),
    statement(
        "7. CNI_ARGS",
        &[
            claim("7a", "pairs in any order, unknown keys ignored"),
            claim("7b", "malformed ones do not stop a DEL"),
        ],
    ),
    statement(
        "8. The plugin's own namespace",
        &[
            claim("8a", "ADD into it: code 8, before anything is made"),
            claim(
                "8b",
                "DEL in it: code 8, or success that touches nothing there",
            ),
            claim(
                "8c",
                "CNI_NETNS_OVERRIDE of `1` or `true` in any case permits it",
            ),
        ],
    ),
    statement(
        "9. Tracing",
        &[
            claim("9a", "TRACEPARENT, TRACESTATE and BAGGAGE do no harm"),
            claim("9b", "a failure's log on stderr names the trace"),
        ],
    ),
    statement(
        "10. Configuration",
        &[
            claim("10a", "`name` missing: 7"),
            claim("10b", "`name` not a name: 7"),
            claim("10c", "no JSON: 6"),
            claim("10d", "`cniVersion` that is no version: 6"),
            claim("10e", "`cniVersion` not supported: 1"),
            claim("10f", "`cniVersion` absent is 0.1.0"),
            claim("10g", "unknown fields are accepted"),
        ],
    ),
    statement(
        "11. Version of the result",
        &[
            claim("11a", "it is the version of the input"),
            untestable(
                "11b",
                "of several versions in a list the highest common one is chosen",
                "the runtime does that; a plugin sees one version",
            ),
        ],
    ),
    statement(
        "12. Shapes of versions",
        &[
            claim(
                "12a",
                "before 1.0.0 each address has `version` \"4\" or \"6\"",
            ),
            claim("12b", "from 1.0.0 on it has none"),
            claim(
                "12c",
                "interface `mtu`, `socketPath` and `pciID` only from 1.1.0 on",
            ),
            claim(
                "12d",
                "a `prevResult` in the shape of the version is accepted",
            ),
            claim("12e", "its `cniVersion` may be absent"),
        ],
    ),
    statement(
        "13. Commands that a version does not have",
        &[
            claim("13a", "CHECK before 0.4.0: code 1"),
            claim("13b", "GC before 1.1.0: code 1"),
            claim("13c", "STATUS before 1.1.0: code 1"),
        ],
    ),
    statement(
        "14. VERSION",
        &[
            claim("14a", "prints `cniVersion` and `supportedVersions`"),
            claim(
                "14b",
                "`cniVersion` is that of the input where it is supported",
            ),
            claim("14c", "never waits for stdin"),
            claim("14d", "works without stdin"),
            claim("14e", "every version that it names works"),
        ],
    ),
    statement(
        "15. `capabilities`",
        &[claim(
            "15a",
            "tolerated, although the specification says that it is not sent",
        )],
    ),
    statement(
        "16. Spelling of `runtimeConfig`",
        &[
            claim("16a", "camelCase is understood"),
            claim("16b", "the names of Go's fields are understood alike"),
        ],
    ),
    statement(
        "17. Conventional requests",
        &[
            claim(
                "17a",
                "`ips` and `mac` are honoured or refused with code 2, never ignored",
            ),
            claim(
                "17b",
                "`bandwidth`, `aliases`, `cgroupPath` and annotations do no harm",
            ),
            claim(
                "17c",
                "`portMappings` are published where the plugin does that itself",
            ),
            claim("17d", "`dns` goes into the result"),
            claim("17e", "`args.cni.labels` does no harm"),
        ],
    ),
    statement(
        "18. ADD makes the interface",
        &[
            claim("18a", "CNI_IFNAME is in CNI_NETNS afterwards, up"),
            claim(
                "18b",
                "an interface of that name: an error, and it stays as it is",
            ),
            claim(
                "18c",
                "a second ADD of the same: an error or the same answer; the first stays whole",
            ),
            claim("18d", "packets pass in both families"),
        ],
    ),
    statement(
        "19. First and chained",
        &[
            claim("19a", "the first plugin needs no `prevResult`"),
            claim("19b", "a later one hands on what came in `prevResult`"),
        ],
    ),
    statement(
        "20. The result says what is there",
        &[
            claim(
                "20a",
                "the pod's interface: name, MAC as in the kernel, `sandbox` as CNI_NETNS",
            ),
            claim(
                "20b",
                "interfaces of the host: no `sandbox`, and they exist",
            ),
            claim("20c", "addresses: those of the kernel, with length"),
            claim(
                "20d",
                "`ips[].interface` is the index of the pod's interface",
            ),
            claim("20e", "routes: each is in the pod's namespace"),
            claim("20f", "`mtu`, where there is one, is the kernel's"),
            claim("20g", "an empty `dns` is left out"),
            claim(
                "20h",
                "index 0 and no index are two things, and are handed on as such",
            ),
            claim("20i", "`gateway` is an address of the family"),
        ],
    ),
    statement(
        "21. What others read from it",
        &[
            claim("21a", "portmap works after it"),
            claim("21b", "bandwidth works after it"),
            claim("21c", "tuning works after it"),
            claim("21d", "firewall works after it"),
            claim(
                "21e",
                "interface names are unique, so that a host's `eth0` does not hide the pod's",
            ),
            claim("21f", "every MAC can be parsed"),
        ],
    ),
    statement(
        "22. At the same time",
        &[
            claim("22a", "containers added at once get addresses of their own"),
            claim("22b", "containers may come while others go"),
        ],
    ),
    statement(
        "23. DEL succeeds",
        &[
            claim("23a", "when repeated"),
            claim("23b", "without `prevResult`"),
            claim("23c", "with CNI_NETNS empty or unset"),
            claim("23d", "when the namespace is gone"),
            claim("23e", "when CNI_NETNS is no namespace"),
            claim("23f", "when the interface is gone"),
            claim("23g", "when the plugin's own state is gone"),
            claim("23h", "without CNI_ARGS"),
            claim("23i", "for what never was"),
        ],
    ),
    statement(
        "24. DEL goes by its key",
        &[
            claim("24a", "not by the pod's name"),
            claim(
                "24b",
                "not by the namespace's path, which may be another's by now",
            ),
            claim("24c", "the network's name is part of it"),
            claim("24d", "the interface's name is part of it"),
        ],
    ),
    statement(
        "25. DEL releases",
        &[
            claim(
                "25a",
                "the address is free again although the interface could not be removed by us",
            ),
            claim(
                "25b",
                "no real error's text holds \"not found\", which a runtime takes for success",
            ),
            claim("25c", "nothing of the attachment is left"),
        ],
    ),
    statement(
        "CHECK",
        &[
            claim("Ca", "`prevResult` missing: 7"),
            claim("Cb", "succeeds right after ADD"),
            claim("Cc", "fails without the interface"),
            claim("Cd", "fails with another MAC"),
            claim("Ce", "fails with another MTU"),
            claim("Cf", "fails without one of the addresses"),
            claim("Cg", "fails without one of the routes"),
            claim("Ch", "fails without the reservation of the address"),
            claim("Ci", "fails without the agent that it needs"),
            claim("Cj", "tolerates what later plugins add"),
            untestable(
                "Ck",
                "verifies that policies are attached",
                "no subject has policies; the agent's own tests show that it repairs its guard",
            ),
            claim("Cl", "changes nothing"),
        ],
    ),
    statement(
        "GC",
        &[
            claim("Ga", "removes what is not listed"),
            claim("Gb", "leaves what is listed"),
            claim("Gc", "`null` and `[]` list nothing"),
            claim("Gd", "without the list: refused with 7"),
            claim("Ge", "other networks are left alone"),
            claim("Gf", "an ADD that goes on is left alone"),
            untestable(
                "Gg",
                "goes on after an error and reports all",
                "nothing outside can make the removal of one attachment fail; tests of the agent do",
            ),
            claim(
                "Gh",
                "takes a list with `cni.dev/attachments` beside it, as libcni sends it",
            ),
            claim("Gi", "a malformed entry is refused, and named"),
        ],
    ),
    statement(
        "STATUS",
        &[
            claim("Sa", "ready: 0"),
            claim("Sb", "no ADD can work: 50"),
            claim("Sc", "no address left: 50"),
            untestable(
                "Sd",
                "51 where traffic of running containers suffers too",
                "which fault that is depends on the plugin",
            ),
            claim("Se", "changes nothing"),
            claim("Sf", "ends, though what it asks does not answer"),
        ],
    ),
    statement(
        "Several networks",
        &[
            claim("Na", "a container has a usable interface of each"),
            claim("Nb", "DEL of one leaves the other"),
            claim("Nc", "CHECK knows each"),
            claim("Nd", "GC of one leaves the other"),
        ],
    ),
    statement(
        "Delegation",
        &[
            claim(
                "Da",
                "the delegate gets the same variables and the whole configuration",
            ),
            claim("Db", "its stderr comes through"),
            claim("Dc", "DEL and CHECK are passed on"),
            claim("Dd", "after its failed ADD it gets a DEL"),
            claim(
                "De",
                "it is found through CNI_PATH, as a file and not a path",
            ),
        ],
    ),
    statement(
        "Faults",
        &[
            claim("Fa", "ADD without the agent: 11"),
            claim("Fb", "DEL without the agent succeeds, and is made up for"),
            claim("Fc", "ADD of a silent agent ends, with 11"),
            claim("Fd", "killed in the middle of ADD, one DEL clears up"),
            claim(
                "Fe",
                "the agent killed in the middle of ADD: an answer, and one DEL clears up",
            ),
            claim("Ff", "DELs at the same time all succeed"),
            claim("Fg", "a failed ADD leaves nothing"),
            claim("Fh", "DEL while ADD goes on: nothing is left in the end"),
            claim("Fi", "it starts no process that outlives it"),
        ],
    ),
    statement(
        "Likeness",
        &[
            claim(
                "La",
                "its results have what `ptp`'s and `bridge`'s have in common, and nothing that the version does not know",
            ),
            claim(
                "Lb",
                "malformed input gets the code that the reference gives",
            ),
        ],
    ),
];

/// The claim of this id.
#[must_use]
pub fn claim_of(id: &str) -> Option<&'static Claim> {
    let mut claims = STATEMENTS.iter().flat_map(|statement| statement.claims);
    claims.find(|claim| claim.id == id)
}
