# Each target does its whole set-up on a bare Debian 12 with make, git, ca-certificates and the Rust toolchain.
.DEFAULT_GOAL := test
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: setup build image demo test conformance torture soak fuzz model bench e2e lint clean

setup: ## what is missing from apt
	@scripts/setup.sh

build: setup ## release binaries in target/release
	@scripts/build.sh

image: build ## all programs as an OCI archive, target/image/tombolo.tar; TAG=name instead of the version
	@scripts/image.sh $(TARGET)/image/tombolo.tar $(TAG)

demo: build ## the main job from end to end, with tables
	@$(TARGET)/release/tombolo-lab demo

test: ## everything that must hold before a change goes in
	@scripts/test.sh

conformance: setup ## tries Tombolo, ptp and bridge, and writes docs/conformance.md
	@cargo build --workspace --locked --bins
	@$(TARGET)/debug/tombolo-conformance --page docs/conformance.md | grep -v ' pass '

torture: build ## STEPS random steps from SEED on a lab; a failure is shortened and kept in torture.json
	@$(TARGET)/release/tombolo-lab torture --steps $(or $(STEPS),300) $(if $(SEED),--seed $(SEED)) --shrink 20

soak: build ## PAIRS=n ADDs and DELs (20,000) on one node, and a table of what might have grown
	@$(TARGET)/release/tombolo-lab soak --pairs $(or $(PAIRS),20000)

fuzz: setup ## every decoder of outside bytes, SECONDS=n each (60), guided by coverage; ONLY=name one; KEEP=1 keeps finds
	@scripts/fuzz.sh $(or $(SECONDS),60) "$(ONLY)" "$(KEEP)"

model: setup ## the address protocol in larger sizes: minutes, and up to 6 GiB; ONLY=words those with the words in their name
	@ulimit -v 8000000; TOMBOLO_MODEL="$(or $(ONLY),large)" scripts/test.sh model

bench: build ## ADD, DEL and the path beside their peers; BEFORE=dir beside an earlier build's; target/bench/bench.json
	@cargo build --locked --release --manifest-path bench/Cargo.toml --target-dir $(TARGET)/bench
	@$(TARGET)/bench/release/tombolo-bench --bin $(TARGET)/release $(if $(BEFORE),--before $(BEFORE)) --out $(TARGET)/bench/bench.json

e2e: ## the checks on a real Kubernetes 1.20 with Tombolo from deploy/; ARGS="--only a,b --keep"; KUBE_BIN_DIR, PREVIOUS
	@scripts/e2e.sh $(ARGS)

lint: ## formatting, clippy, tiers, generated files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo xtask arch
	cargo xtask codegen --check

clean: ## removes what was built
	cargo clean
