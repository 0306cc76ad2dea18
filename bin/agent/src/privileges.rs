//! What the process may do, cut down to what it needs before it starts a thread: capabilities in all sets, no way to gain
//! others by executing something, and files that nobody else can read.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What the agent keeps (SECURITY.md lists them for people):
///
/// - `CAP_NET_ADMIN`: links, routes, rules, neighbours, nf_tables, connection tracking, settings below `/proc/sys/net`;
/// - `CAP_SYS_ADMIN`: entering a pod's network namespace;
/// - `CAP_SYS_PTRACE`: opening the namespace that the plugin holds open, through `/proc/<plugin>/fd`; the plugin has more
///   capabilities than we, and the kernel counts that as looking into a stranger.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE);

/// The process has not what it needs, or could not give up the rest.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("the agent needs {}, which it was not given", words(*.0))]
    Missing(CapabilitySet),
    #[error("{operation}")]
    System {
        operation: &'static str,
        #[source]
        source: Errno,
    },
}

/// Gives up everything but what is needed, for good. The process must have one thread: each has its own sets, and those
/// that start later get what the first has then.
pub fn restrict() -> Result<(), PrivilegeError> {
    let failed = |operation| move |source| PrivilegeError::System { operation, source };
    let held = capabilities(None)
        .map_err(failed("read capabilities"))?
        .permitted;
    let missing = KEPT.difference(held);
    if !missing.is_empty() {
        return Err(PrivilegeError::Missing(missing));
    }
    // Without this one the bounding set cannot be changed. Whoever took it from us has cut that set down himself; and what
    // follows keeps us from ever making use of it.
    if held.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(KEPT).iter() {
            match remove_capability_from_bounding_set(capability) {
                // One that this kernel does not know.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(source) => return Err(failed("reduce the bounding set")(source)),
            }
        }
    }
    clear_ambient_capability_set().map_err(failed("clear the ambient set"))?;
    let sets = CapabilitySets {
        effective: KEPT,
        permitted: KEPT,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed("give up capabilities"))?;
    set_no_new_privs(true).map_err(failed("forswear new privileges"))?;
    umask(Mode::RWXG | Mode::RWXO);
    Ok(())
}

fn words(set: CapabilitySet) -> String {
    let names: Vec<String> = set
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    names.join(", ")
}
