# make demo   the whole job on the bundled miniature world, ends with who wins
# make test   the tests
# Both create .venv first when it is missing or older than what it is made from.

# The first of these that runs and is new enough: a name on the PATH may be a shim that runs nothing.
PYTHON ?= $(shell for one in python3.11 python3.12 python3.13 python3; do \
	$$one -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$one && break; done)
VENV := .venv
BIN := $(VENV)/bin
CODE := curate train schemas tests benchmarks docs

# Where the README's commands look for a run, so that they work after the demo.
DEMO_RUN ?= run

.DEFAULT_GOAL := help
.PHONY: help demo test lowest nightly check docs format bench reproduce gpu demo-world clean

help: ## say what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

$(VENV)/demo-installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "pairsieve needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing pairsieve and what it needs into $(VENV): 6.6 GB, 4.6 of it torch and CUDA; about 8 minutes" >&2
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/installed: $(VENV)/demo-installed
	$(INSTALL) '.[dev]'
	touch $@

demo: $(VENV)/demo-installed ## score, rank, pack, train, sample, compare: 3 to 4 minutes on 2 cores
	PATH="$(CURDIR)/$(BIN):$$PATH" benchmarks/demo_world/demo.sh "$(DEMO_RUN)"

test: $(VENV)/installed ## run every test but those of the night
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not nightly"

constraints-lowest.txt: pyproject.toml $(VENV)/installed
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --resolution lowest-direct --python-version 3.11 \
		--no-annotate --no-header --output-file $@

LOWEST_TESTS ?= tests/curate/models tests/curate/sources/test_parquet.py tests/curate/database tests/train/model \
	tests/train/test_config.py tests/train/test_cli.py tests/test_dependencies.py

lowest: $(VENV)/installed ## the built wheel at the lowest versions allowed: the demo from another folder, then tests
	.ci/lowest $(LOWEST_TESTS)

nightly: $(VENV)/installed ## what CI has no time for: models at full size, every fast test at the lowest versions
	$(BIN)/python -m pytest -m nightly
	$(MAKE) lowest LOWEST_TESTS=tests

check: $(VENV)/installed ## lint, format and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(CODE)

$(VENV)/docs-installed: $(VENV)/installed
	$(INSTALL) '.[docs]'
	touch $@

docs: $(VENV)/docs-installed ## build docs/ as a site into build/docs; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "page  build/docs/index.html"

format: $(VENV)/installed ## put the code in the house's format
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/installed ## measure ours against the peers and the limits
	$(BIN)/python -m benchmarks.speed.run

reproduce: $(VENV)/installed ## the paper's claim in miniature into docs/: about an hour on 2 cores, goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reproduction.run

gpu: $(if $(WHEELS),,$(VENV)/installed) ## prove and measure a GPU into docs/gpu.md: 9 minutes; REHEARSE=1: on the CPU
	$(if $(WHEELS),$(PYTHON),$(BIN)/python) -m benchmarks.gpu $(if $(REHEARSE),--rehearse) $(if $(WHEELS),--wheels "$(WHEELS)")

demo-world: $(VENV)/installed ## make data_manifests/demo again from its seeds (long)
	$(BIN)/python -m benchmarks.demo_world.build --work build/demo_world

clean: ## remove what make and the tests left, not your runs
	rm -rf $(VENV) *.egg-info build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
