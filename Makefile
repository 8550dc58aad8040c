PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

.PHONY: setup demo test test-avx2 test-oldest lint docs bench claims-quick clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "maskwright needs Python 3.10 or newer; '$(PYTHON)' was not found (set PYTHON=...)"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else f"maskwright needs Python 3.10 or newer, found {v[0]}.{v[1]} (set PYTHON=...)")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,weights,export,formats,excel,heic,stores]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/maskwright run demo-instant out=demo

test: $(READY)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -rs $(ARGS)

# The tests that compare bits, with the kernels that a processor without AVX-512 takes.
test-avx2: $(READY)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(MAKE) test ARGS="-m 'bit_equal and not slow and not long' $(ARGS)"

# The tests marked `versions` with the oldest versions that pyproject.toml allows, in .venv-oldest.
test-oldest:
	PYTHON=$(PYTHON) .ci/oldest $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $(DOCS_READY)

bench: $(READY)
	$(BIN)/python -m benchmarks.speed

# A few claims of the papers, on the scenes and, where MASKWRIGHT_DATA is set, on photographs and road scenes.
claims-quick: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.claims quick=true $(if $(MASKWRIGHT_DATA),msrc=$(MASKWRIGHT_DATA)/msrc21 camvid=$(MASKWRIGHT_DATA)/camvid) $(ARGS)

clean:
	rm -rf $(VENV) .venv-oldest demo build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
