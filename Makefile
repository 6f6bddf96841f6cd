# Each target sets up what it needs from a clean clone: a virtual environment in .venv, nothing outside it.
PYTHON ?= python3
TORCH ?= 2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint bench clean

demo: .venv/.demo  ## score the sample clip with the default bundle and draw its timeline
	@mkdir -p demo-output
	$(BIN)/psamf-edge infer psamf_edge/data/sample.mp4 --format json -o demo-output/sample.json
	$(BIN)/psamf-edge infer psamf_edge/data/sample.mp4 --format png -o demo-output/sample.png
	$(BIN)/psamf-edge infer psamf_edge/data/sample.mp4 --format html -o demo-output/sample.html
	@$(BIN)/python -c "import json; r = json.load(open('demo-output/sample.json')); print(f\"score {r['score']:+.2f} ({r['label']}); timeline in demo-output/sample.png and .html\")"

test: .venv/.test lint  ## the whole test run: offline, no GPU
	$(BIN)/python -m pytest

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/.test  ## the latency table of the README
	$(BIN)/python -m benchmarks.clip_latency

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml
	$(PIP) -e '.[plot]'
	@touch $@

# torch by itself, and its CPU build: PyPI's for Linux brings gigabytes of CUDA. From wherever pip looks, else from
# PyTorch's own index, else PyPI's after all.
# TensorRT-RTX builds engines without a GPU, but has wheels for x86-64 and Windows only: its tests skip without it.
.venv/.test: .venv/bin/python pyproject.toml
	$(PIP) torch==$(TORCH)+cpu 2>/dev/null || $(PIP) torch==$(TORCH) --index-url $(TORCH_INDEX) || $(PIP) torch==$(TORCH)
	$(PIP) -e '.[plot,compile,dev]'
	-$(PIP) -e '.[rtx]'
	@touch $@

clean:
	rm -rf .venv demo-output build dist *.egg-info
