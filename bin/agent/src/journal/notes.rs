//! Notes that the plugin left while no agent answered: [`DelNote`], one file a key, beside the agent's socket.
//!
//! The plugin writes, we read and remove. Who holds the key's lock decides: what a note asks for is done under that lock,
//! and only if the note is still there then. So a note never ends what a later ADD of the same key made: that ADD holds
//! the lock, and obeys the note first.

use std::path::{Path, PathBuf};

use tombolo_core::types::{AttachmentKey, DelNote, InvalidKey};

use super::Quarantined;
use super::file::{self, Error, ensure_dir, read_version};
use crate::steps;

/// The directory.
#[derive(Clone, Debug)]
pub struct Notes {
    dir: PathBuf,
    quarantine: PathBuf,
}

impl Notes {
    /// Makes the directory (0700), or checks the one that is there.
    pub fn open(socket: &Path, quarantine: &Path) -> Result<Self, Error> {
        let dir = socket.with_file_name(DelNote::DIRECTORY);
        ensure_dir(&dir)?;
        Ok(Self {
            dir,
            quarantine: quarantine.to_owned(),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All notes. A file that is none is moved aside and reported.
    pub fn list(&self) -> Result<(Vec<AttachmentKey>, Vec<Quarantined>), Error> {
        let (mut keys, mut quarantined) = (Vec::new(), Vec::new());
        for path in file::list(&self.dir)? {
            match read(&path) {
                Ok(key) => keys.push(key),
                // Obeyed a moment ago, by an ADD or DEL of its key.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let aside = || file::move_aside(&path, &self.quarantine);
                    let moved_to = steps::NOTE_QUARANTINE.around(aside)?;
                    quarantined.push(Quarantined { moved_to, error });
                }
            }
        }
        Ok((keys, quarantined))
    }

    /// Whether there is one for this key. One look into a directory in memory: fit for ADD.
    pub fn has(&self, key: &AttachmentKey) -> bool {
        self.path(key).symlink_metadata().is_ok()
    }

    /// Removes the one for this key; absent is fine.
    pub fn remove(&self, key: &AttachmentKey) -> Result<(), Error> {
        file::remove(&self.path(key))
    }

    fn path(&self, key: &AttachmentKey) -> PathBuf {
        self.dir.join(DelNote::file_name(key))
    }
}

fn read(path: &Path) -> Result<AttachmentKey, Error> {
    let DelNote { key, .. } = read_version(path, DelNote::VERSION)?;
    let AttachmentKey {
        network,
        container_id,
        ifname,
    } = &key;
    // As strict as with a request: a name that no interface can have must not reach the kernel.
    AttachmentKey::new(network, container_id, ifname).map_err(|error: InvalidKey| {
        Error::Garbage {
            path: path.to_owned(),
            source: serde::de::Error::custom(error),
        }
    })?;
    if path.file_name() != Some(DelNote::file_name(&key).as_ref()) {
        return Err(Error::Misnamed {
            path: path.to_owned(),
            key: key.to_string(),
        });
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn key(n: u32) -> AttachmentKey {
        AttachmentKey::new("net", &format!("c{n}"), "eth0").unwrap()
    }

    fn notes(dir: &Path) -> Notes {
        let quarantine = dir.join("quarantine");
        ensure_dir(&quarantine).unwrap();
        Notes::open(&dir.join("agent.sock"), &quarantine).unwrap()
    }

    fn plant(notes: &Notes, key: &AttachmentKey, content: &serde_json::Value) {
        std::fs::write(notes.path(key), content.to_string()).unwrap();
    }

    #[test]
    fn what_the_plugin_wrote_is_read_and_the_rest_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let notes = notes(dir.path());
        let mode = notes.dir.metadata().unwrap().permissions().mode();
        assert_eq!(mode, 0o40700);
        plant(&notes, &key(1), &serde_json::json!(DelNote::new(key(1))));
        assert!(notes.has(&key(1)) && !notes.has(&key(2)));

        let mut future = DelNote::new(key(3));
        future.version = 2;
        plant(&notes, &key(3), &serde_json::json!(future));
        plant(&notes, &key(4), &serde_json::json!(DelNote::new(key(1))));
        plant(&notes, &key(5), &serde_json::json!({"version": 1}));
        let evil = AttachmentKey {
            ifname: "../../x".to_owned(),
            ..key(6)
        };
        plant(
            &notes,
            &evil,
            &serde_json::json!(DelNote::new(evil.clone())),
        );
        symlink("/etc/hostname", notes.path(&key(7))).unwrap();
        std::fs::create_dir(notes.path(&key(8))).unwrap();

        let (found, quarantined) = notes.list().unwrap();
        assert_eq!(found, [key(1)]);
        assert_eq!(quarantined.len(), 6, "{quarantined:?}");
        assert!(Path::new("/etc/hostname").exists());
        notes.remove(&key(1)).unwrap();
        notes.remove(&key(1)).unwrap();
        let (found, quarantined) = notes.list().unwrap();
        assert!(found.is_empty() && quarantined.is_empty());
    }

    #[test]
    fn directory_that_is_a_link_is_refused() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(elsewhere.path(), dir.path().join(DelNote::DIRECTORY)).unwrap();
        let opened = Notes::open(&dir.path().join("agent.sock"), dir.path());
        assert!(matches!(opened, Err(Error::Directory { .. })));
    }
}
