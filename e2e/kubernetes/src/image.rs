//! Container images from programs of this machine: an archive as `docker save` writes it, which containerd imports. Nothing is
//! pulled.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::command::{command, output};

/// Image of the pods that the checks make, and of the sandboxes.
pub const TEST_IMAGE: &str = "localhost/tombolo-e2e/box:1";
/// What the web server of a test pod says: who it is, and who asks.
const WHO: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s %s\\n' \"$(hostname)\" \"$REMOTE_ADDR\"\n";
/// Path of it.
pub const WHO_PATH: &str = "/cgi-bin/who";
/// Names under which busybox runs.
const APPLETS: &[&str] = &[
    "sh", "ash", "cat", "echo", "hostname", "httpd", "ip", "ls", "mkdir", "nc", "printf", "rm",
    "sleep", "test", "touch", "true", "false", "udhcpc", "wget",
];

/// Writes the archive of the test image.
pub fn write_test_image(archive: &Path, work: &Path) -> Result<()> {
    let root = work.join("rootfs");
    for dir in [
        "bin",
        "tmp",
        "etc",
        "proc",
        "sys",
        "dev",
        "www/cgi-bin",
        "run",
    ] {
        create(&root.join(dir))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|b| Path::new(b).exists());
    let busybox = busybox.context("no busybox: install busybox-static")?;
    put(
        &root.join("bin/busybox"),
        &fs::read(busybox).with_context(|| format!("read {busybox}"))?,
        0o755,
    )?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))
            .with_context(|| format!("link applet {applet}"))?;
    }
    put(&root.join("www/cgi-bin/who"), WHO.as_bytes(), 0o755)?;
    put(&root.join("www/index.html"), b"ok\n", 0o644)?;
    put(
        &root.join("etc/passwd"),
        b"root:x:0:0:root:/:/bin/sh\n",
        0o644,
    )?;
    pack(
        TEST_IMAGE,
        &root,
        &["/bin/sleep", "2147483647"],
        archive,
        work,
    )
}

/// Packs a folder as the only layer of an image.
fn pack(name: &str, root: &Path, run: &[&str], archive: &Path, work: &Path) -> Result<()> {
    let image = work.join("image");
    create(&image)?;
    let layer = image.join("layer.tar");
    tar(&layer, root)?;
    let bytes = fs::read(&layer).with_context(|| format!("read {}", layer.display()))?;
    let digest = Sha256::digest(&bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect::<String>();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": run, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    put(
        &image.join("config.json"),
        config.to_string().as_bytes(),
        0o644,
    )?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    put(
        &image.join("manifest.json"),
        manifest.to_string().as_bytes(),
        0o644,
    )?;
    tar(archive, &image)?;
    fs::remove_dir_all(work).with_context(|| format!("remove {}", work.display()))
}

fn tar(archive: &Path, root: &Path) -> Result<()> {
    let mut tar = command("tar");
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "-C",
    ]);
    output(tar.arg(root).arg("-cf").arg(archive).arg(".")).map(|_| ())
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set mode of {}", path.display()))
}

/// Checks an archive that is given, before anything is started.
pub fn check_archive(archive: &Path) -> Result<()> {
    if !archive.is_file() {
        bail!(
            "{}: no image archive there; `make image` writes one",
            archive.display()
        );
    }
    Ok(())
}
