//! An image from the machine's static busybox, as an OCI archive that runtimes import. The same bytes each time.
//!
//! One layer: busybox, links for what it is called, and the directories that a container wants. One name for each use: the
//! pause container that holds a sandbox runs `sleep` of it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Where Debian's busybox-static puts it.
pub const BUSYBOX: &str = "/bin/busybox";
/// The image that containers of tests run.
pub const NAME: &str = "localhost/busybox:1";
/// The image of sandboxes.
pub const PAUSE: &str = "localhost/pause:1";

/// Names under which busybox is found in the image.
const APPLETS: [&str; 20] = [
    "cat", "echo", "env", "false", "grep", "hostname", "httpd", "id", "ip", "kill", "ls", "mkdir",
    "nc", "ping", "ps", "sh", "sleep", "stat", "true", "wget",
];
/// Directories of the image, parents first.
const DIRS: [&str; 8] = ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"];

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// The archive with both images.
///
/// # Errors
/// Where there is no static busybox.
pub fn archive() -> Result<Vec<u8>> {
    let busybox = read_static(Path::new(BUSYBOX))?;
    let layer = layer(&busybox);
    let mut tar = Tar::default();
    tar.file(
        "oci-layout",
        0o644,
        json!({ "imageLayoutVersion": "1.0.0" })
            .to_string()
            .as_bytes(),
    );
    tar.dir("blobs");
    tar.dir("blobs/sha256");
    let layer_blob = tar.blob(LAYER_TYPE, &layer);
    let mut manifests = Vec::new();
    for (name, command) in [
        (NAME, &["/bin/sh"][..]),
        (PAUSE, &["/bin/sleep", "2147483647"]),
    ] {
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": { "Cmd": command, "Env": ["PATH=/bin"], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [layer_blob["digest"]] },
        });
        let config = tar.blob(CONFIG_TYPE, config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [layer_blob],
        });
        let mut manifest = tar.blob(MANIFEST_TYPE, manifest.to_string().as_bytes());
        manifest["annotations"] = json!({
            "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name,
        });
        manifests.push(manifest);
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    tar.file("index.json", 0o644, index.to_string().as_bytes());
    Ok(tar.end())
}

/// The image's files, unpacked below `dir`: for runtimes that take a directory.
///
/// # Errors
/// Where there is no static busybox, or `dir` cannot be written.
pub fn unpack(dir: &Path) -> Result<()> {
    let busybox = read_static(Path::new(BUSYBOX))?;
    for below in DIRS {
        let below = dir.join(below);
        fs::create_dir_all(&below).with_context(|| format!("create {}", below.display()))?;
    }
    let program = dir.join("bin/busybox");
    fs::write(&program, busybox).with_context(|| format!("write {}", program.display()))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, executable)
        .with_context(|| format!("make {} executable", program.display()))?;
    for applet in APPLETS {
        let link = dir.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", &link)
            .with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

/// Reads a program that needs no other file to run.
fn read_static(path: &Path) -> Result<Vec<u8>> {
    let needs = || format!("{} (Debian: busybox-static)", path.display());
    let program = fs::read(path).with_context(needs)?;
    let interpreted = wants_interpreter(&program).with_context(needs)?;
    ensure!(
        !interpreted,
        "{}: is linked dynamically, a static one is needed",
        needs()
    );
    Ok(program)
}

/// Whether a 64-bit ELF program has an entry PT_INTERP; `None` where the bytes are no such program.
fn elf_interpreter(program: &[u8]) -> Option<bool> {
    let number = |at: usize, len: usize| {
        let bytes = program.get(at..at.checked_add(len)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    };
    if program.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(table.checked_add(index.checked_mul(size)?)?).ok()?;
        if number(at, 4)? == 3 {
            return Some(true);
        }
    }
    Some(false)
}

fn wants_interpreter(program: &[u8]) -> Result<bool> {
    elf_interpreter(program).context("is no little-endian 64-bit ELF program")
}

/// What the image specification calls this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn layer(busybox: &[u8]) -> Vec<u8> {
    let mut tar = Tar::default();
    DIRS.iter().for_each(|dir| tar.dir(dir));
    tar.file("bin/busybox", 0o755, busybox);
    for applet in APPLETS {
        tar.link(&format!("bin/{applet}"), "busybox");
    }
    tar.end()
}

/// A POSIX ustar archive; names of less than 100 bytes, everything root's, at the beginning of time.
#[derive(Debug, Default)]
struct Tar(Vec<u8>);

const BLOCK: usize = 512;

impl Tar {
    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, mode, b'0', "", content.len());
        self.0.extend_from_slice(content);
        self.pad();
    }

    fn dir(&mut self, name: &str) {
        self.entry(&format!("{name}/"), 0o755, b'5', "", 0);
    }

    fn link(&mut self, name: &str, to: &str) {
        self.entry(name, 0o777, b'2', to, 0);
    }

    /// Adds content under its digest, and returns its descriptor.
    fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        let digest: String = Sha256::digest(content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.file(&format!("blobs/sha256/{digest}"), 0o644, content);
        let digest = format!("sha256:{digest}");
        json!({ "mediaType": media_type, "digest": digest, "size": content.len() })
    }

    fn entry(&mut self, name: &str, mode: u32, kind: u8, to: &str, size: usize) {
        let start = self.0.len();
        let octal = |number: usize, width: usize| format!("{number:0width$o}\0");
        let text = |out: &mut Vec<u8>, text: &str, width: usize| {
            let end = out.len() + width;
            out.extend_from_slice(text.as_bytes());
            out.resize(end, 0);
        };
        let out = &mut self.0;
        text(out, name, 100);
        text(out, &octal(mode as usize, 7), 8);
        text(out, &octal(0, 7), 8);
        text(out, &octal(0, 7), 8);
        text(out, &octal(size, 11), 12);
        text(out, &octal(0, 11), 12);
        // The checksum counts itself as blanks.
        text(out, "        ", 8);
        out.push(kind);
        text(out, to, 100);
        text(out, "ustar\x0000", 8);
        out.resize(start + BLOCK, 0);
        let sum: usize = out.iter().skip(start).map(|byte| usize::from(*byte)).sum();
        let sum = format!("{sum:06o}\0 ");
        for (place, byte) in out.iter_mut().skip(start + 148).zip(sum.bytes()) {
            *place = byte;
        }
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let mut tar = Tar::default();
        tar.dir("a");
        tar.file("a/f", 0o750, &[b'x'; 700]);
        tar.file("a/empty", 0o600, b"");
        tar.link("a/l", "f");
        let mut reader = Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--file=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        reader.stdin.take().unwrap().write_all(&tar.end()).unwrap();
        let output = reader.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let fields = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[0], words[2], words[5..].join(" "))
        };
        let lines: Vec<_> = text.lines().map(fields).collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0 a/",
                "-rwxr-x--- 700 a/f",
                "-rw------- 0 a/empty",
                "lrwxrwxrwx 0 a/l -> f"
            ]
        );
    }

    #[test]
    fn programs_that_need_a_loader_are_told_apart() {
        let own = fs::read("/proc/self/exe").unwrap();
        assert_eq!(elf_interpreter(&own), Some(true));
        assert_eq!(elf_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(elf_interpreter(own.get(..60).unwrap()), None);
    }
}
