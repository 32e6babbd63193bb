# `make help` lists the targets. Two of them do all the set-up by themselves: `make demo` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?=
ACCEL ?= cpu
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(ACCEL)
SOURCES := platform registry training serving tests infra

# Compiled modules are kept: without them each of Ray's processes compiles every library anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE
export FINMAAS_HOME ?= $(CURDIR)/.finmaas

.PHONY: help setup demo test test-unit clients soak check lint types imports format bench bench-gateway bench-allowances bench-masking bench-judge bench-registry bench-serving peers docs sbom wheels lock lock-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv (ACCEL=cpu|gpu, WHEELS=folder for a site without internet)
	@$(RUN)/python -m finmaas_serving.compiled

$(STAMP): requirements/cpu.txt requirements/gpu.txt requirements/torch-cpu.txt pyproject.toml infra/install.sh
	@echo "Installing into $(VENV) from requirements/$(ACCEL).txt …"
	@start=$$(date +%s); ACCEL=$(ACCEL) PYTHON=$(PYTHON) infra/install.sh $(VENV) \
	  && date +%s > /dev/null && echo $$(( $$(date +%s) - start )) > $(STAMP) \
	  && echo "Installed in $$(cat $(STAMP)) s."

demo: ## run the main job on this machine and leave it running (DATA=file TEXT=column LABEL=column BASE=folder)
	@start=$$(date +%s); $(MAKE) --no-print-directory setup \
	  && FINMAAS_SETUP_SECONDS=$$(( $$(date +%s) - start )) $(RUN)/python -m finmaas_platform.demo \
	    $(if $(DATA),--data "$(DATA)") $(if $(TEXT),--text "$(TEXT)") $(if $(LABEL),--label "$(LABEL)") $(if $(BASE),--base "$(BASE)")

test: setup clients ## run every test that this machine can run, the demo among them
	infra/test.sh $(RUN) $(ARGS)

test-unit: setup clients ## run the tests that need no Ray, vLLM or database server
	$(RUN)/pytest -m "not integration" -n auto --dist loadfile $(ARGS)

clients: build/clients-venv/.installed build/clients-node/.installed build/hub-clients/.installed ## install the client libraries that tests try gateway and registry with

build/clients-venv/.installed: requirements/clients.txt | $(STAMP)
	@mkdir -p build
	$(RUN)/uv venv --quiet --allow-existing build/clients-venv
	$(RUN)/uv pip install --quiet --python build/clients-venv/bin/python --no-deps --require-hashes -r requirements/clients.txt
	@touch $@

build/hub-clients/.installed: requirements/hub-clients.txt | $(STAMP)
	@rm -rf build/hub-clients
	$(RUN)/uv pip install --quiet --python $(RUN)/python --target build/hub-clients --no-deps --require-hashes -r requirements/hub-clients.txt
	@touch $@

build/clients-node/.installed: tests/clients/node/package.json tests/clients/node/package-lock.json
	@mkdir -p build/clients-node
	@cp tests/clients/node/package.json tests/clients/node/package-lock.json build/clients-node
	@if command -v npm > /dev/null; then cd build/clients-node && npm ci --no-audit --no-fund --silent && touch .installed; \
	  else echo "npm is not here, so OpenAI's Node client is not tried"; fi

check: lint types imports ## lint, types and import contracts

lint: $(STAMP) ## ruff: rules and format
	$(RUN)/ruff check $(SOURCES)
	$(RUN)/ruff format --check $(SOURCES)

types: $(STAMP) ## mypy, strict
	$(RUN)/mypy

imports: $(STAMP) ## the layers, and what the control plane must not import
	$(RUN)/lint-imports

format: $(STAMP) ## let ruff mend what it can
	$(RUN)/ruff check --fix $(SOURCES)
	$(RUN)/ruff format $(SOURCES)

bench: bench-gateway bench-serving ## every benchmark; JSON in build/bench

bench-gateway: setup peers ## the gateway beside LiteLLM, Portkey and nginx, on one upstream
	$(RUN)/python tests/benchmarks/bench_gateway.py $(ARGS)

peers: setup build/peers/litellm/.installed build/peers/portkey/.installed ## install the gateways that ours is compared with, in build/peers

build/peers/litellm/.installed: requirements/peers.txt
	@rm -rf build/peers/litellm && mkdir -p build/peers
	$(RUN)/uv venv --quiet --python $(RUN)/python build/peers/litellm
	$(RUN)/uv pip install --quiet --python build/peers/litellm/bin/python --no-deps --require-hashes -r requirements/peers.txt
	@touch $@

build/peers/portkey/.installed: tests/benchmarks/peers/portkey/package-lock.json
	@mkdir -p build/peers/portkey && cp tests/benchmarks/peers/portkey/package*.json build/peers/portkey/
	@if command -v npm > /dev/null; then npm ci --silent --ignore-scripts --prefix build/peers/portkey; \
	  else echo "npm is not installed, so Portkey's gateway is left out (apt-get install npm)"; fi
	@touch $@

bench-allowances: setup ## a budget spent to its end over four gateways: overspend, false refusals, cost of a request
	$(RUN)/python tests/benchmarks/bench_allowances.py $(ARGS)

bench-masking: setup ## what the guardrails find in labelled texts of FINMAAS_DATA, and what they cost
	$(RUN)/python tests/benchmarks/bench_masking.py

bench-judge: setup ## a judge trained here, and lists of phrases, on offensive texts of FINMAAS_DATA (about 6 minutes)
	$(RUN)/python tests/benchmarks/bench_judge.py $(ARGS)

bench-registry: setup build/bench-venv/.installed ## push, pull, second version, S3 against boto3 and rclone (ARGS="--megabytes 200")
	$(RUN)/python tests/benchmarks/bench_registry.py $(ARGS)

build/bench-venv/.installed: requirements/bench.txt
	$(RUN)/uv venv --quiet --allow-existing build/bench-venv
	$(RUN)/uv pip install --quiet --python build/bench-venv/bin/python --no-deps --require-hashes -r requirements/bench.txt
	@touch $@

bench-serving: setup ## bare vLLM, the replica's port and the gateway, one after the other
	$(RUN)/python tests/benchmarks/bench_serving.py

docs: $(STAMP) ## write docs/reference from the OpenAPI description and the CLI
	$(RUN)/python -m finmaas_platform.openapi
	$(RUN)/python -m finmaas_platform.cli.reference

sbom: $(STAMP) ## software bill of materials (CycloneDX) of what is installed, in build/
	@mkdir -p build
	$(RUN)/uv venv --quiet --allow-existing build/sbom-venv
	$(RUN)/uv pip install --quiet --python build/sbom-venv/bin/python --no-deps --require-hashes -r requirements/sbom.txt
	build/sbom-venv/bin/cyclonedx-py environment $(VENV) --of JSON -o build/sbom.cdx.json
	@echo "Wrote build/sbom.cdx.json"

wheels: $(STAMP) ## fill build/wheels for sites without internet; install there with `make setup WHEELS=folder`
	@mkdir -p build/wheels
	$(RUN)/python -m pip download --quiet --no-deps -d build/wheels -r requirements/bootstrap.txt
	$(if $(filter cpu,$(ACCEL)),$(RUN)/python -m pip download --quiet --no-deps -d build/wheels -r requirements/torch-cpu.txt \
	  || $(RUN)/python -m pip download --quiet --no-deps -d build/wheels -r requirements/torch-cpu.txt --index-url https://download.pytorch.org/whl/cpu)
	$(RUN)/python -m pip wheel --quiet --no-deps -w build/wheels -r requirements/$(ACCEL).txt
	$(RUN)/python infra/offline_lock.py --note requirements/$(ACCEL).txt build/wheels

lock: ## resolve the lock files anew
	infra/lock.sh

lock-check: $(STAMP) ## resolve the gpu lock without installing it
	$(RUN)/uv pip install --dry-run --no-deps --python-platform x86_64-manylinux_2_28 --target build/gpu-dry-run -r requirements/gpu.txt

clean: ## remove build outputs (not .finmaas, not .venv)
	rm -rf build dist
