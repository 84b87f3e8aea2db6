# make demo    set up, train a small model, watch it remember, write runs/demo/report.html
# make page    set up and serve a page in which you can draw, speak and ask; sessions are kept in runs/page.db
# make test    set up and run the tests; ARGS="tests/test_docs.py -x" passes arguments on to pytest
# make lint    ruff, its formatter and mypy
# make wheel   dist/*.whl
# make results fill the table of results in README.md from the shipped checkpoints
#
# Everything lives in .venv. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
OLDEST := 3, 11

# Two test processes with one thread each: threads of both would fight for the same cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# Training frees and takes the same large blocks over and over; glibc is told to keep them.
export MALLOC_MMAP_THRESHOLD_ := 4000000000
export MALLOC_TRIM_THRESHOLD_ := 8000000000

.PHONY: demo page test lint wheel results setup again
.DEFAULT_GOAL := demo

demo: $(READY)
	@$(BIN)/tokenturing demo

# The page's key to its memory belongs to the address, so the port is the same each time unless somebody else has it.
PAGE_PORT = $(shell $(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", 8080))' 2> /dev/null && echo 8080 || echo 0)

page: $(READY)
	@mkdir -p runs
	@$(BIN)/tokenturing serve recall-ttm --store sqlite:runs/page.db --port $(PAGE_PORT)

test: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

wheel: $(READY)
	@rm -rf build dist
	@$(BIN)/python -m build --wheel --no-isolation . > $(VENV)/wheel.log 2>&1 || { cat $(VENV)/wheel.log; exit 1; }
	@rm -rf build
	@ls dist/*.whl

results: $(READY)
	@$(BIN)/python docs/results.py

setup: $(READY)

# A PYTHON that is asked for and is not the one that the set-up ran with makes it run again.
ifneq ($(origin PYTHON), file)
ifneq ($(shell cat $(READY) 2>/dev/null), $(PYTHON))
$(READY): again
endif
endif

$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c '' 2> /dev/null \
		|| { echo "There is no working $(PYTHON): install Python 3.11 or newer, or name one with PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < ($(OLDEST)))' \
		|| { echo "$$("$(PYTHON)" --version 2>&1) is too old: install Python 3.11 or newer, or name one with PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null \
		|| { echo "$(PYTHON) cannot make environments: install its venv module (on Debian: apt install python3-venv)"; exit 1; }
	@version='import sys; print(sys.version_info[:2])'; \
	if [ "$$($(BIN)/python -c "$$version" 2>&1)" != "$$("$(PYTHON)" -c "$$version")" ] \
		|| ! $(BIN)/python -m pip --version > /dev/null 2>&1; then \
		echo "Making an environment in $(VENV)"; "$(PYTHON)" -m venv --clear $(VENV); fi
	@echo "Installing tokenturing, PyTorch and what they need (a few minutes, once)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@echo "$(PYTHON)" > $@
