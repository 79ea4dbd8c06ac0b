# make up · demo · test · check: from a bare clone, each installs what it needs and says so.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: up demo test check bench lock clean

up: $(STAMP)
	@$(BIN)/yizhan up

demo: $(STAMP)
	@$(BIN)/yizhan demo

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

test: $(STAMP)
	@tests/install_services.sh
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest || { echo "the last test to begin: $$(cat .pytest_cache/now_running)"; exit 1; }

bench: $(STAMP)
	@$(BIN)/yizhan bench latency

$(STAMP): requirements.lock pyproject.toml
	@echo "installing the environment into $(VENV) (the first time takes about a minute)"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -y -q python3-venv && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# needs uv; writes no host names
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --all-extras pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .yizhan .mypy_cache .ruff_cache .pytest_cache .hypothesis
