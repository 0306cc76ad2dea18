//! What the plugin leaves behind when it was asked to detach and no agent answered.

use serde::{Deserialize, Serialize};

use super::AttachmentKey;

/// "Detach this": one small JSON file, written by the plugin, obeyed and removed by the agent. It says nothing but the
/// key, because only what stands when it is obeyed can be detached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelNote {
    /// [`DelNote::VERSION`] of the build that wrote it.
    pub version: u32,
    /// What to detach.
    pub key: AttachmentKey,
}

impl DelNote {
    /// The version that this build writes. Plugin and agent may be of different builds: an agent reads its own version
    /// and earlier ones.
    pub const VERSION: u32 = 1;
    /// Directory of the notes, beside the agent's socket.
    pub const DIRECTORY: &str = "pending-del";

    /// The note for a key.
    #[must_use]
    pub const fn new(key: AttachmentKey) -> Self {
        Self {
            version: Self::VERSION,
            key,
        }
    }

    /// The one file name that a note for this key can have.
    #[must_use]
    pub fn file_name(key: &AttachmentKey) -> String {
        format!("{}.json", key.file_stem())
    }
}
