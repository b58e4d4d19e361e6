# Two commands: `make run` and `make test`. Both make .venv first when it is not there; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# A CPU or CUDA build of torch: make run TORCH_INDEX=<address of that build's index>
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadgroup

.PHONY: run test check lint typecheck docs wheel install clean

run: $(VENV)/.ready
	$(BIN)/bench run --models gensr,unisar --dataset ml-100k $(ARGS)
	$(BIN)/bench table

test: $(VENV)/.ready-dev
	$(PYTEST) -m "not slow" $(ARGS)

# Everything, the slow checks too.
check: $(VENV)/.ready-dev lint typecheck
	$(PYTEST) $(ARGS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The four code folders are one package only once they are installed, so the checker reads an installed copy.
typecheck: $(VENV)/.ready-dev
	rm -rf build/typecheck
	$(PIP) --no-deps --no-build-isolation --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p bench

docs: $(VENV)/.ready-dev
	$(BIN)/python -m bench.cli.reference > docs/cli.md

wheel: $(VENV)/.ready-dev
	$(BIN)/python -m build --wheel --no-isolation

install: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "bench needs Python 3.11 or newer; this is %s. Name another: make run PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[recbole]"
	# RecBole pins packages that exclude every current ray, so it comes without its dependencies.
	$(PIP) --no-deps recbole
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) --editable ".[recbole,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist
