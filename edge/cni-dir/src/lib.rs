//! The two directories of a node that container runtimes read: that of plugins, and that of network configurations.
//!
//! | file | holds |
//! |---|---|
//! | `files.rs` | one file, written whole or not at all, and removed |
//! | `conflist.rs` | what our network configuration says |
//! | `rivals.rs` | which other configuration a runtime would take instead, or stumble over; decisions only |
//! | `lib.rs` | the acts: install, keep, take over, give back, remove |
//!
//! A runtime may read at any moment: it finds the file that was there before or the one that comes, never none and never a
//! part. What is not ours is not touched, unless [`take_over`] is asked for; then it is renamed, and [`give_back`] renames it
//! back. Writers of one directory take turns by a lock on it, which ends with the process.
#![forbid(unsafe_code)]

mod conflist;
mod files;
mod rivals;

use std::path::{Path, PathBuf};

use tombolo_failpoint::points;

pub use conflist::{CNI_VERSIONS, Conflist, InvalidConflist};
pub use files::{Error, MAX_PLUGIN_BYTES, Outcome};
pub use rivals::{MAX_CONF_BYTES, Rival, Trouble};

use files::{Directory, Points};

/// Our network configuration. Runtimes take the name that sorts first.
pub const CONFLIST: &str = "05-tombolo.conflist";
/// The plugin.
pub const PLUGIN: &str = "tombolo-cni";
/// What a file is called that was taken out of the runtime's sight: its name and this. No runtime reads files that end so.
pub const SAVED: &str = ".tombolo-saved";

points! {
    /// Writes of whoever keeps our network configuration.
    pub static KEEPING;
    /// The network configuration under its temporary name.
    CONF_CONTENT = "conf.content";
    CONF_NAME = "conf.name";
    /// Another's is renamed.
    CONF_TAKE_OVER = "conf.take-over";
}

points! {
    /// Writes of whoever installs and removes.
    pub static INSTALLING;
    /// The plugin under its temporary name.
    PLUGIN_CONTENT = "plugin.content";
    PLUGIN_NAME = "plugin.name";
    PLUGIN_REMOVE = "plugin.remove";
    CONF_REMOVE = "conf.remove";
    /// Another's gets its name back.
    CONF_GIVE_BACK = "conf.give-back";
}

/// What leads to each kind of file.
static OF_PLUGIN: Points = Points {
    content: &PLUGIN_CONTENT,
    name: &PLUGIN_NAME,
    remove: &PLUGIN_REMOVE,
};
static OF_CONF: Points = Points {
    content: &CONF_CONTENT,
    name: &CONF_NAME,
    remove: &CONF_REMOVE,
};

/// Puts the plugin that lies at `from` into a directory, executable from the moment that it has its name.
///
/// # Errors
/// Which operation failed on which path.
pub fn install_plugin(from: &Path, bin_dir: &Path) -> Result<Outcome, Error> {
    let program = files::read(from, MAX_PLUGIN_BYTES)?;
    Directory::lock(bin_dir)?.replace(PLUGIN, &program, 0o755, &OF_PLUGIN)
}

/// Removes the plugin; false where there is none.
///
/// # Errors
/// Which operation failed on which path.
pub fn remove_plugin(bin_dir: &Path) -> Result<bool, Error> {
    match Directory::lock_existing(bin_dir)? {
        Some(dir) => dir.remove(PLUGIN, &OF_PLUGIN),
        None => Ok(false),
    }
}

/// Writes our network configuration, where it is not there already, word for word.
///
/// # Errors
/// Which operation failed on which path.
pub fn keep_conflist(conf_dir: &Path, conflist: &Conflist) -> Result<Outcome, Error> {
    let text = conflist.text();
    Directory::lock(conf_dir)?.replace(CONFLIST, text.as_bytes(), 0o600, &OF_CONF)
}

/// Removes our network configuration; false where there is none.
///
/// # Errors
/// Which operation failed on which path.
pub fn remove_conflist(conf_dir: &Path) -> Result<bool, Error> {
    match Directory::lock_existing(conf_dir)? {
        Some(dir) => dir.remove(CONFLIST, &OF_CONF),
        None => Ok(false),
    }
}

/// Configurations of others that a runtime takes before ours, or cannot read.
///
/// # Errors
/// Which operation failed on which path.
pub fn rivals(conf_dir: &Path) -> Result<Vec<Rival>, Error> {
    let mut found = Vec::new();
    for name in files::names(conf_dir)? {
        if !rivals::is_read(&name) || name == CONFLIST {
            continue;
        }
        let path = conf_dir.join(&name);
        let content = match files::read(&path, MAX_CONF_BYTES) {
            Ok(content) => Ok(content),
            Err(error) => match path.symlink_metadata() {
                // Somebody removed it since it was listed.
                Err(_) => continue,
                // Runtimes pass it over.
                Ok(metadata) if metadata.is_dir() => continue,
                // The runtime cannot read it either: a link to nothing, too long, an input/output error.
                Ok(_) => Err(match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                }),
            },
        };
        found.extend(rivals::judge(CONFLIST, &name, content));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Renames what stands before ours, so that no runtime reads it; returns the names.
///
/// # Errors
/// Which operation failed on which path.
pub fn take_over(conf_dir: &Path) -> Result<Vec<String>, Error> {
    let dir = Directory::lock(conf_dir)?;
    let mut taken = Vec::new();
    for rival in rivals(conf_dir)?.into_iter().filter(Rival::is_before) {
        let to = format!("{}{SAVED}", rival.name);
        if dir.rename(&rival.name, &to, &CONF_TAKE_OVER)? {
            taken.push(rival.name);
        }
    }
    Ok(taken)
}

/// What became of a file that had been taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// It has its name again.
    Back(String),
    /// Another has that name by now; the saved one stays as it is.
    NameTaken(PathBuf),
}

/// Renames back what [`take_over`] renamed.
///
/// # Errors
/// Which operation failed on which path.
pub fn give_back(conf_dir: &Path) -> Result<Vec<GivenBack>, Error> {
    let Some(dir) = Directory::lock_existing(conf_dir)? else {
        return Ok(Vec::new());
    };
    let mut given = Vec::new();
    for saved in files::names(conf_dir)? {
        let Some(name) = saved.strip_suffix(SAVED) else {
            continue;
        };
        given.push(if dir.rename(&saved, name, &CONF_GIVE_BACK)? {
            GivenBack::Back(name.to_owned())
        } else {
            GivenBack::NameTaken(conf_dir.join(&saved))
        });
    }
    Ok(given)
}
