# `make demo` and `make test` need nothing installed by hand but Python 3.11+, make, and for the tests PostgreSQL.
VENV ?= .venv
FLAVOUR ?= cpu
PYTHON ?= python3
READY := $(VENV)/.ready-$(FLAVOUR)
BIN := $(VENV)/bin
WORKERS ?= 2
# TRL beside the environment, not in it: its dependencies would change what the daemon is tested with
TRL_SITE ?= $(HOME)/.cache/erratad/trl
TRL_PACKAGES := trl datasets dill multiprocess pyarrow pandas xxhash python-dateutil pytz
GPU_PYTHON ?= 3.12
GPU_PACKAGES := pydantic pydantic-core annotated-types typing-inspection trl datasets dill multiprocess
RUN_TESTS := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=30

.PHONY: help setup demo test test-fast check style types imports docs format bench-intake bench-idle bench-soak bench-swap bench-ask bench-alias bench-store bench-capacity bench-gate-power bench-guidance bench-quality bench-poison probe-teacher bench-train drill-daemons gpu-check gpu-wheels fuzz wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## virtual environment, vLLM (FLAVOUR=cpu or gpu) and the demo model

$(READY): pyproject.toml deploy/docker/install.sh deploy/local/setup.sh deploy/local/constraints.txt daemon/demo/model.py deploy/local/helm.py
	PYTHON=$(PYTHON) deploy/local/setup.sh $(VENV) $(FLAVOUR)

demo: $(READY) ## the whole loop on this machine: flagged responses in, better adapter live (JSON=1, SCENARIO=file, KEEP=1)
	@$(BIN)/erratad demo $(if $(JSON),--json) $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(KEEP),--keep)

test: ## every test: unit, services, faults, end to end (WORKERS=2 processes; PYTEST="..." adds arguments)
	@deploy/local/test_programs.sh & programs=$$!; PYTHON=$(PYTHON) deploy/local/test_servers.sh & servers=$$!; \
	$(MAKE) --no-print-directory check && wait $$programs && wait $$servers
	$(RUN_TESTS) $(PYTEST)

test-fast: $(READY) check ## check and the unit tests, a few minutes
	$(RUN_TESTS) tests/unit tests/test_repository.py $(PYTEST)

check: $(READY) ## ruff, mypy, import-linter, docs, side by side
	@$(MAKE) --no-print-directory --jobs=4 --output-sync types imports docs style

style: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

docs: $(READY) ## the documentation's site in build/site; a broken link, anchor or image fails
	$(BIN)/python -m deploy.docs.build

format: $(READY) ## format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-intake: $(READY) ## taking in messages against kafka-python and json.loads, in processor time; one JSON line (INTAKE="--profile")
	@$(BIN)/python -m tests.benchmarks.intake $(INTAKE)

bench-idle: $(READY) ## processor time, writes and memory of a daemon without work, SQLite and PostgreSQL; JSON lines (IDLE="--seconds 120")
	@$(BIN)/python -m tests.benchmarks.idle $(IDLE)

bench-soak: $(READY) ## 300 whole runs of a tiny model with traffic, outages and restarts: what grows; an hour, one JSON line (SOAK="--runs 100 --backend postgresql")
	@$(BIN)/python -m tests.benchmarks.soak $(SOAK)

bench-swap: $(READY) ## 200 swaps under steady load with a real vLLM, against no swaps; one JSON line (SWAP="--swaps 60 --replicas 3 --model real")
	$(BIN)/python -m tests.benchmarks.swap $(SWAP)

bench-ask: $(READY) ## erratad's questions against `vllm bench serve` on one server; one JSON line (ASK="--model real")
	$(BIN)/python -m tests.benchmarks.ask $(ASK)

bench-alias: $(READY) ## what the alias and CPU LoRA cost against plain vLLM; one JSON line (ALIAS="--model tiny")
	$(BIN)/python -m tests.benchmarks.alias $(ALIAS)

bench-store: $(READY) ## what operations cost at 10 k, 100 k and 1 M reports, SQLite and PostgreSQL, half an hour; JSON lines (STORE="--rows 10000 --rows 100000")
	$(BIN)/python -m tests.benchmarks.store $(STORE)

bench-capacity: $(READY) ## what a deployment needs by its size, simulated in seconds; prints the tables of docs/capacity.md
	@$(BIN)/python -m tests.benchmarks.capacity

bench-gate-power: $(READY) ## how often the gate's default bounds err, computed in seconds; prints docs/measurements/gate-power.md's tables
	@$(BIN)/python -m tests.benchmarks.gate_power

probe-teacher: $(READY) ## which teachers help a model, by kind of mistake, before anything is trained (PROBE="--config FILE --data FOLDER")
	@$(BIN)/python -m tests.benchmarks.teachers $(PROBE)

bench-guidance: $(READY) ## what texts of the guidance do to a model, some minutes (GUIDANCE="--model FOLDER --text TEXT")
	@$(BIN)/python -m tests.benchmarks.guidance $(GUIDANCE)

bench-quality: $(READY) ## recipes side by side on public data, hours long, goes on where it was (DATA=folder QUALITY="--seeds 1")
	@$(BIN)/python -c "import trl" 2>/dev/null || $(BIN)/pip install --quiet -c deploy/local/constraints.txt -e '.[bench]'
	$(BIN)/python -m tests.benchmarks.quality --data $(or $(DATA),$(error give DATA=folder with the public data sets)) $(QUALITY)

bench-poison: $(READY) ## attackers against the whole path, hours long, goes on where it was (GOALS=refusal ATTACKERS=sybil SEEDS=2 DEFENCES=on)
	@$(BIN)/python -m tests.benchmarks.poison $(if $(GOALS),--goals $(GOALS)) $(if $(ATTACKERS),--attackers $(ATTACKERS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(DEFENCES),--defences $(DEFENCES))

drill-daemons: $(READY) ## three daemons while leader, follower, database and replica are killed, stopped and cut off; hours, adds to build/ (DRILL="--seconds 600 --only leader")
	@$(BIN)/python -m tests.faults.daemons $(DRILL)

bench-train: $(READY) ## our trainer against TRL's SFTTrainer in tokens per CPU-second, about half an hour; one JSON line (TRAIN="--models 135M")
	@PYTHONPATH=$(TRL_SITE) $(BIN)/python -c "import trl" 2>/dev/null || $(BIN)/pip install --quiet --no-deps --target $(TRL_SITE) -c deploy/local/constraints.txt $(TRL_PACKAGES)
	@PYTHONPATH=.:$(TRL_SITE) $(BIN)/python -m tests.benchmarks.training $(TRAIN)

gpu-check: ## the trainer on a GPU in ten minutes, beside TRL if it is there; one JSON line (PYTHON=python3 without a set-up, GPU="--report folder")
	@PYTHONPATH=.:$$PYTHONPATH $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.benchmarks.gpu_check $(GPU)

gpu-wheels: $(READY) ## what gpu-check needs besides PyTorch, transformers and peft, as files in build/gpu-wheels (GPU_PYTHON=3.12)
	@rm -rf build/gpu-wheels
	@$(BIN)/pip download --quiet --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 -d build/gpu-wheels -c deploy/local/constraints.txt $(GPU_PACKAGES)

fuzz: $(READY) ## random messages and rules against the intake, about half an hour; one JSON line (FUZZ="--messages 1000 --seed 7")
	@$(BIN)/python -m tests.benchmarks.fuzz $(FUZZ)

wheel: $(READY) ## wheel, source archive and SBOM in dist/, checked; the wheel runs in an empty environment (DEPENDENCIES=download)
	@DEPENDENCIES=$(DEPENDENCIES) SBOM_EXTRAS=$(FLAVOUR) deploy/local/wheel.sh $(VENV)

clean: ## remove what was built here (the model cache stays)
	rm -rf $(VENV) var build dist *.egg-info
