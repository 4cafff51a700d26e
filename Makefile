# The README's commands. Everything is installed into .venv; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q -n 2 --durations=15
COMPARE := $(BIN)/python launch/compare.py --config configs/reward_ip2p.py:shapes

.PHONY: help demo table ablations test oracle lint clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: .venv/installed  ## train with and without reward, print the table, draw runs/demo/grid.png: ten minutes on two cores
	$(COMPARE) --arms "without reward" reward --seeds 1 --count 128 --workdir runs/demo

table: .venv/installed  ## the README's table: the same with three seeds and more scenes
	$(COMPARE) --arms "without reward" reward --seeds 3 --count 256 --workdir runs/comparison

ablations: .venv/installed  ## goes on from the table: scores, text or both; attention, addition or both
	$(COMPARE) --seeds 3 --count 256 --workdir runs/comparison

test: .venv/installed  ## the tests that need neither PyTorch nor patience
	$(PYTEST) -m "not oracle and not slow"

oracle: .venv/oracle  ## the others: slow ones, and those that compare with PyTorch, diffusers and transformers
	$(PYTEST) -m "oracle or slow"

lint: .venv/installed  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove what was installed and trained
	rm -rf .venv runs

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/oracle: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[oracle]'
	touch $@
