# make demo [IMAGE=path]   an image through the accelerator, in simulation
# make test                every test                  make test-fast   those that are quick
# make bench               the figures of the docs     make lint        style and types
# Each does all the set-up that it needs, once. PYTHON names another interpreter, PYTEST_ARGS adds
# options to pytest.
VENV := .venv
BIN := $(VENV)/bin
FOLDERS := bench boards cli compiler hw model quant serve sim

# The stamp is named by the content of what it depends on: time stamps change with each checkout.
STAMP := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt .ci/setup | cksum | tr ' ' '-')
# The board driver is tested with pynq, which wants an older NumPy: an environment of its own.
PYNQ := $(VENV)/.pynq-$(shell cksum <constraints-pynq.txt | tr ' ' '-')

# Threads of numerical libraries would fight with the test workers for the processors.
TEST_ENV := OMP_NUM_THREADS=1 AMARANTH_USE_YOSYS=builtin
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

.PHONY: help setup demo test test-fast bench bench-reference lint clean
help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -5

setup: $(STAMP)
$(STAMP):
	@.ci/setup $(VENV)
	@rm -f $(VENV)/.ready-*
	@touch $@

$(PYNQ): $(STAMP)
	@$(BIN)/python -m venv $(VENV)/pynq
	@$(VENV)/pynq/bin/python -m pip install --disable-pip-version-check --quiet \
		-c constraints-pynq.txt pynq
	@rm -f $(VENV)/.pynq-*
	@touch $@

demo: $(STAMP)
	@$(BIN)/moevit run --task all --backend sim $(if $(IMAGE),"$(IMAGE)")

test: $(STAMP) $(PYNQ)
	$(PYTEST)

test-fast: $(STAMP) $(PYNQ)
	$(PYTEST) -m "not slow"

bench: $(STAMP)
	$(BIN)/moevit bench

# TRAINED names a checkpoint of `tiny` for the frame with trained routing; without it that is left out.
bench-reference: $(STAMP)
	bench/reference.sh $(BIN) $(TRAINED)

# mypy knows packages by their folders' names, so it sees the mapped ones through links: `api` is the
# package moevit itself.
TYPING := build/typing/moevit
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf $(TYPING) && mkdir -p $(TYPING)
	@for file in api/* $(FOLDERS); do ln -sfn ../../../$$file $(TYPING)/; done
	$(BIN)/mypy -p moevit

clean:
	rm -rf build out .pytest_cache .mypy_cache .ruff_cache .hypothesis
