//! Generates `edge/rpc/src/generated.rs` from `edge/rpc/proto/tombolo.proto`, with no protoc: the result is committed.

use std::fs;
use std::path::Path;

use anyhow::Context;
use tonic_prost_build::FileDescriptorSet;

use crate::generated;

const PROTO_DIR: &str = "edge/rpc/proto";
const PROTO: &str = "tombolo.proto";
const PACKAGE: &str = "tombolo.v1";
const OUTPUT: &str = "edge/rpc/src/generated.rs";

/// Writes the generated file below the repository's `root`; with `check`, only compares it and fails where it differs.
pub fn generate(root: &Path, check: bool) -> anyhow::Result<()> {
    let descriptors = protox::compile([PROTO], [root.join(PROTO_DIR)])
        .with_context(|| format!("compile {PROTO_DIR}/{PROTO}"))?;
    let out = std::env::temp_dir().join(format!("tombolo-rpc-{}", std::process::id()));
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let generated = compile(descriptors, &out);
    let removed = fs::remove_dir_all(&out).with_context(|| format!("remove {}", out.display()));
    let text = generated?;
    removed?;
    generated::write(root, OUTPUT, &text, check)
}

fn compile(descriptors: FileDescriptorSet, out: &Path) -> anyhow::Result<String> {
    tonic_prost_build::configure()
        .build_transport(false)
        .client_mod_attribute(PACKAGE, "#[cfg(feature = \"client\")]")
        .server_mod_attribute(PACKAGE, "#[cfg(feature = \"server\")]")
        .out_dir(out)
        .compile_fds(descriptors)
        .with_context(|| format!("generate {OUTPUT}"))?;
    let file = out.join(format!("{PACKAGE}.rs"));
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}
