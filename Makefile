# Needs Python >= 3.10 and the Python package registry; `make demo` and `make test` do the rest.

PYTHON ?= python3
VENV ?= .venv
RUN = "$(VENV)/bin/python"
# Who names a PYTHON gets it; otherwise a VENV that is there keeps the Python that made it.
KEEP = $(if $(filter file,$(origin PYTHON)),--keep)

.DEFAULT_GOAL := help
.PHONY: help venv demo test soak gpu lint format wheel clean
# Under -j too: the targets share VENV, and one of them fills the machine.
.NOTPARALLEL:

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F '|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo
	@echo 'Settings: PYTHON=python3.12 makes VENV from that Python, VENV=folder (.venv) puts it there,'
	@echo 'ARGS="..." goes to the command, such as: make test ARGS="tests/layers -x"'

venv: ## set up VENV, or bring it up to date (the other targets do it by themselves)
	@requirements/install.sh $(KEEP) "$(PYTHON)" "$(VENV)"

demo: venv ## train a small GN Mask R-CNN from scratch, evaluate it, show it
	$(RUN) tools/demo.py $(ARGS)

test: venv ## run the tests
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not soak" $(ARGS)

soak: venv ## run the tests that take minutes to hours
	$(RUN) -m pytest -m soak $(ARGS)

gpu: venv ## measure and test on an NVIDIA GPU, 8 minutes and more; results in output/gpu
	$(RUN) tools/benchmark.py gpu --output output/gpu $(ARGS)
	$(RUN) -m pytest tests/gpu

lint: venv ## check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: venv ## sort the imports and format
	$(RUN) -m ruff check --select I --fix .
	$(RUN) -m ruff format .

wheel: venv ## build dist/*.whl
	rm -rf build dist
	$(RUN) -m build --no-isolation --outdir dist .

clean: ## remove what was built and cached; VENV, output/ and datasets/ stay
	rm -rf build dist __pycache__ gn_det.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find benchmarks examples gn_det studies tests tools -name __pycache__ -prune -exec rm -rf {} +
