# The commands of this checkout. `make demo` and `make test` install what a fresh Debian machine lacks; see .ci/setup.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
# Namespaces, links, bpf(2) and clusters need root; the caller's HOME keeps the cache in one place.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=HOME,XDG_CACHE_HOME,PATH)
PYTEST := $(PYTHON) -m pytest
# Real packets, threads and clusters on a machine that is busy with them all: a test that fails is given one more try, and the summary names
# it ("R", "rerun"), so that nothing is hidden.
AGAIN := --reruns 1 --reruns-delay 2 -raR
PURE := tests/unit tests/cli tests/gke
REAL := tests/local tests/datapath tests/terraform

.PHONY: help setup tools demo test test-fast test-cluster conformance lint format bench docs images lock clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## install what this machine lacks: packages, the virtual environment, native objects, Kubernetes programs
	@.ci/setup

tools: # all but the Kubernetes programs: enough for lint and the fast tests
	@.ci/setup packages venv native terraform

demo: setup ## a two-node cluster on this machine, with pods and a Service at work
	@bash docs/demo.sh

# What needs no cluster leaves a core idle if it runs alone: lint, the pure and the real tests go two at a time, each telling its own at its end.
FAST := $(MAKE) --no-print-directory --jobs=2 --output-sync=target

test: setup ## lint, then every test; the cluster suite last
	@$(FAST) lint-only test-pure test-real
	$(ROOT) $(PYTEST) $(AGAIN) tests/cluster

test-fast: tools ## all but the cluster suite
	@$(FAST) test-pure test-real

.PHONY: test-pure test-real
test-pure:
	$(ROOT) $(PYTEST) $(AGAIN) $(PURE)

test-real:
	$(ROOT) $(PYTEST) $(AGAIN) $(REAL)

test-cluster: setup ## the suite on real clusters
	$(ROOT) $(PYTEST) $(AGAIN) tests/cluster

# FOCUS, SKIP: regular expressions of specs' texts; NODES, PROCS: how many. Only the whole run writes the page.
conformance: setup ## Kubernetes' own sig-network specs, [Conformance] and Netpol, on a local cluster; FOCUS=netpol, services or REGEX selects others
	$(ROOT) $(PYTHON) -m tests.conformance $(if $(FOCUS),--focus '$(FOCUS)',--page docs/conformance.md) \
	  $(if $(SKIP),--skip '$(SKIP)') $(if $(NODES),--nodes $(NODES)) $(if $(PROCS),--procs $(PROCS))

lint: tools ## ruff, mypy --strict, import contracts
	@$(MAKE) --no-print-directory lint-only

.PHONY: lint-only
lint-only:
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --check --quiet .
	.venv/bin/mypy --strict provisioner agent
	MYPYPATH=terraform/provider .venv/bin/mypy --strict -p terraform_provider_provisioner
	.venv/bin/mypy --strict terraform/generate.py terraform/provider/install.py
	.venv/bin/lint-imports --no-cache

format: tools ## rewrite the sources as ruff wants them
	.venv/bin/ruff check --fix --quiet . || true
	.venv/bin/ruff format .

# A benchmark that fails costs its own part of the page only, and the page says that it is missing.
bench: setup ## measure what docs/benchmarks.md reports
	@mkdir -p build && rm -f build/bench-*.json
	-$(ROOT) $(PYTHON) -m tests.bench.datapath_limit --json build/bench-datapath.json
	-$(ROOT) $(PYTHON) -m tests.bench.cluster --json build/bench-cluster.json
	-$(ROOT) $(PYTHON) -m tests.bench.services --json build/bench-services.json
	-$(ROOT) $(PYTHON) -m tests.bench.trace --json build/bench-trace.json
	-$(PYTHON) -m tests.bench.policy_compiler --json build/bench-policy-compiler.json
	-$(ROOT) $(PYTHON) -m tests.bench.policy_latency --json build/bench-policy-latency.json
	-$(ROOT) $(PYTHON) -m tests.bench.policy_logging --json build/bench-policy-logging.json
	-$(PYTHON) -m tests.bench.check --json build/bench-check.json
	-$(PYTHON) -m tests.bench.gke --json build/bench-gke.json
	-$(PYTHON) -m tests.bench.terraform --json build/bench-terraform.json
	$(PYTHON) -m tests.bench.report build > build/benchmarks.md
	mv build/benchmarks.md docs/benchmarks.md

docs: tools ## make docs/compatibility.md and terraform/'s generated parts from the feature matrix
	$(PYTHON) -m provisioner.compatibility.page > docs/compatibility.md.new
	mv docs/compatibility.md.new docs/compatibility.md
	$(PYTHON) terraform/generate.py

images: setup ## build the images that nodes get
	$(ROOT) $(PYTHON) -m provisioner.images

lock: tools ## resolve the dependencies anew into requirements.lock; needs uv
	@{ echo '# Made by `make lock` from pyproject.toml; installed with --require-hashes.'; \
	  uv pip compile pyproject.toml --group dev --python-version 3.11 --universal --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet; } > build/requirements.lock
	mv build/requirements.lock requirements.lock
	@{ echo '# Made by `make lock` from requirements.in; installed with --require-hashes.'; \
	  uv pip compile terraform/provider/requirements.in --python-version 3.11 --universal --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet; } > build/requirements.lock
	mv build/requirements.lock terraform/provider/requirements.lock

clean: ## remove what was built here; caches outside of the checkout and clusters stay
	rm -rf build dist agent/objects provisioner/objects .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -print0 | xargs -0r rm -rf

distclean: clean ## clean, and the virtual environments
	rm -rf .venv .venv-terraform
