# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
DEMO_VENV := .venv-demo
TEST_VENV := .venv-test
DEMO_SOURCE ?= sim:?seconds=20&fps=15&seed=3

SOAK_MINUTES ?= 20
# Processes that run tests: one more than cores, because tests of cameras, brokers and pages mostly wait.
JOBS ?= $(shell echo $$(($$(nproc) + 1)))

.PHONY: demo check fast test test-long test-arm gpu-pack lint soak clean

demo: $(DEMO_VENV)/installed  ## score the simulated fundus camera with the shipped model
	rm -rf .demo
	$(DEMO_VENV)/bin/fthnet run --source '$(DEMO_SOURCE)' --records .demo/records.jsonl --save-best .demo/best
	$(DEMO_VENV)/bin/fthnet session .demo/records.jsonl

check: $(TEST_VENV)/installed  ## lint, types, and the tests that answer in seconds, side by side
	$(MAKE) --no-print-directory -j 2 lint fast

fast: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/python -m pytest -q -n $(JOBS) --dist worksteal -m 'not slow and not long and not gpu' $(PYTEST_ARGS)

test: lint  ## everything that the tests need, then the tests
	$(TEST_VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-long: $(TEST_VENV)/installed  ## what takes minutes: the wheel, the Pythons of JetPack, soaks, fuzz, mutants
	$(TEST_VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal -m 'long and not gpu' $(PYTEST_ARGS)

soak: $(TEST_VENV)/installed  ## the real run against a camera with a fault every few seconds
	$(TEST_VENV)/bin/fthnet bench soak --minutes $(SOAK_MINUTES) --json .soak.json

test-arm: $(TEST_VENV)/installed  ## the wheel and its aarch64 dependencies on an emulated Arm: ten minutes, no root
	$(TEST_VENV)/bin/python -m tests.arm.run .arm

gpu-pack: $(TEST_VENV)/installed  ## for a machine with a GPU and no network; a Jetson: GPU_PACK='--machine aarch64 --python 3.10'
	$(TEST_VENV)/bin/python -m tests.gpu.pack .gpu $(GPU_PACK)

lint: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	mkdir -p build/typing/fthnet_kit
	for folder in edge convert calibration bench; do ln -sfn ../../../$$folder build/typing/fthnet_kit/$$folder; done
	$(TEST_VENV)/bin/mypy

$(DEMO_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip install --quiet .
	touch $@

$(TEST_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip install --quiet torch==2.13.0
	$(TEST_VENV)/bin/pip install --quiet -e '.[dev]'
	$(TEST_VENV)/bin/python -m tests.cuda_stand_in.install_pycuda
	touch $@

clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV) .arm .gpu .demo .soak.json build *.egg-info
