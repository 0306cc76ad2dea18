//! Generates Rust from the committed `.proto` files, with no protoc: the results are committed too.

use std::fs;
use std::path::Path;

use anyhow::Context;
use tonic_prost_build::{Builder, FileDescriptorSet};

use crate::generated;

/// One `.proto` and what is made of it.
struct Contract {
    dir: &'static str,
    file: &'static str,
    package: &'static str,
    output: &'static str,
    /// Whether the client and the server are behind features of these names; otherwise there is a client only.
    both: bool,
}

const CONTRACTS: [Contract; 2] = [
    Contract {
        dir: "edge/rpc/proto",
        file: "tombolo.proto",
        package: "tombolo.v1",
        output: "edge/rpc/src/generated.rs",
        both: true,
    },
    Contract {
        dir: "lab/runtime/proto",
        file: "cri.proto",
        package: "runtime.v1",
        output: "lab/runtime/src/generated.rs",
        both: false,
    },
];

/// Writes the generated files below the repository's `root`; with `check`, only compares them and fails where one differs.
pub fn generate(root: &Path, check: bool) -> anyhow::Result<()> {
    CONTRACTS
        .iter()
        .try_for_each(|contract| contract.generate(root, check))
}

impl Contract {
    fn generate(&self, root: &Path, check: bool) -> anyhow::Result<()> {
        let descriptors = protox::compile([self.file], [root.join(self.dir)])
            .with_context(|| format!("compile {}/{}", self.dir, self.file))?;
        let out = std::env::temp_dir().join(format!("tombolo-rpc-{}", std::process::id()));
        fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
        let generated = self.compile(descriptors, &out);
        let removed = fs::remove_dir_all(&out).with_context(|| format!("remove {}", out.display()));
        let text = generated?;
        removed?;
        generated::write(root, self.output, &text, check)
    }

    fn compile(&self, descriptors: FileDescriptorSet, out: &Path) -> anyhow::Result<String> {
        self.sides(tonic_prost_build::configure().build_transport(false))
            .out_dir(out)
            .compile_fds(descriptors)
            .with_context(|| format!("generate {}", self.output))?;
        let file = out.join(format!("{}.rs", self.package));
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }

    fn sides(&self, builder: Builder) -> Builder {
        if !self.both {
            return builder.build_server(false);
        }
        builder
            .client_mod_attribute(self.package, "#[cfg(feature = \"client\")]")
            .server_mod_attribute(self.package, "#[cfg(feature = \"server\")]")
    }
}
