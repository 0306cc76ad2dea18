//! Changes of a directory, by a thread that waits for them.

use std::path::Path;

use rustix::fs::inotify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::error;

/// Tells that something of this kind happened in the directory. One message may stand for many changes: what counts is
/// looked at again. Ends when the receiver is gone and another change comes.
pub fn watch(dir: &Path, kinds: inotify::WatchFlags) -> std::io::Result<mpsc::Receiver<()>> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&fd, dir, kinds)?;
    let (sender, receiver) = mpsc::channel(1);
    let name = dir.display().to_string();
    let listen = move || {
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(&fd, &mut buffer).is_ok() {
            if let Err(TrySendError::Closed(())) = sender.try_send(()) {
                return;
            }
        }
        error!(directory = name, "changes are no longer seen");
    };
    let thread = std::thread::Builder::new().name("file-watch".to_owned());
    thread.spawn(listen)?;
    Ok(receiver)
}
