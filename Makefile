# `make run` shows the orchestrator at work on this machine; `make test` proves it. Both want root on Debian 12 or later.
SHELL := /bin/sh
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
export PORT

# What the orchestrator itself needs of Debian, besides curl for the demonstration.
PACKAGES := python3-venv nftables iproute2 libseccomp2 curl

# A plain line in a .pth file: the default's import hook costs every command 10 ms.
EDITABLE := --config-settings editable_mode=compat

.DEFAULT_GOAL := help
.PHONY: help venv dev packages run test check check-style check-types check-layers check-tests soak bench schema clean-demo

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

packages:
	@missing=""; for each in $(PACKAGES); do \
	  dpkg-query -W -f='$${Status}' "$$each" 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$each"; \
	done; \
	if [ -n "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "these packages are missing, install them as root:$$missing" >&2; exit 1; }; \
	  echo "installing$$missing"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get -qq update && apt-get -qq install -y --no-install-recommends $$missing; } >/dev/null; \
	fi

venv: $(VENV)/.installed ## the Python environment, in .venv

$(VENV)/bin/python: | packages
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | packages $(VENV)/bin/python
	@echo "installing the Python packages into $(VENV)"
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install $(EDITABLE) -e .
	@touch $@

dev: $(VENV)/.installed-dev

$(VENV)/.installed-dev: pyproject.toml | packages $(VENV)/bin/python
	@echo "installing the Python packages into $(VENV), with those for tests"
	@$(BIN)/python -m pip --quiet --disable-pip-version-check install $(EDITABLE) -e '.[dev]'
	@touch $@ $(VENV)/.installed

run: venv ## apply examples/quickstart.yaml here, and look at it (PORT=8080)
	@[ "$$(id -u)" = 0 ] || { echo "making containers needs root: run it as root, or with sudo" >&2; exit 1; }
	@$(BIN)/orchestrator apply -f examples/quickstart.yaml --timeout 3m
	@echo; echo "\$$ curl http://127.0.0.1:$(PORT)/        (six times)"
	@for turn in 1 2 3 4 5 6; do curl -fsS --max-time 10 http://127.0.0.1:$(PORT)/ || exit 1; done
	@echo; echo "\$$ orchestrator ps"
	@$(BIN)/orchestrator ps
	@echo; echo "Try next:"; \
	echo "  . $(BIN)/activate"; \
	echo "  orchestrator logs web-1                                what an instance printed"; \
	echo "  orchestrator exec web-2 cat /etc/hosts                 a command inside"; \
	echo "  orchestrator kill web-1; orchestrator events -n 5      it comes back by itself, and why"; \
	echo "  edit examples/quickstart.yaml (replicas, a limit)"; \
	echo "  orchestrator plan -f examples/quickstart.yaml          what would change, and why"; \
	echo "  orchestrator graph -f examples/quickstart.yaml         what waits for what"; \
	echo "  make clean-demo                                        remove it all"

clean-demo: venv ## remove what `make run` made, its data too
	@$(BIN)/orchestrator delete quickstart --prune-data --yes

# `init: true` binds a small init of the host's: its test wants one.
# strace plants failing system calls. Images come from a registry on loopback, recipes from the host's mirrors.
# buildah makes an image, umoci unpacks the one that ours is compared with.
test: PACKAGES += catatonit strace mmdebstrap gpg skopeo docker-registry apache2-utils openssl busybox-static buildah umoci
test: dev ## every test, then the check that nothing is left behind
	@if [ -x tests/vm/setup.sh ]; then tests/vm/setup.sh; fi
	@status=0; \
	$(BIN)/python -m pytest -q -n 2 -m "not root and not vm" || status=1; \
	$(BIN)/python -m pytest -q -m "root or vm" || status=1; \
	exit $$status

check: dev ## style, types, layers and the quick tests, in less than a minute
	@$(MAKE) --no-print-directory --output-sync -j 2 check-types check-tests check-style check-layers

check-style: dev
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .

check-types: dev
	@$(BIN)/mypy

check-layers: dev
	@$(BIN)/lint-imports --no-logo

check-tests: dev
	@$(BIN)/python -m pytest -q -n 2 -m "not root and not vm"

soak: dev ## kill everything of ours for ten minutes, over and over, and report (MINUTES=10)
	@$(BIN)/python -m tests.crash.soak --minutes $(or $(MINUTES),10) --report docs/soak.md

bench: dev ## measure starts, the agent, plan and ps against the machine's limit
	@$(BIN)/python -m benchmarks

schema: venv ## write schema/stack.schema.json anew
	@mkdir -p schema && $(BIN)/orchestrator schema >schema/stack.schema.json.new
	@mv schema/stack.schema.json.new schema/stack.schema.json
