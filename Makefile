# The README's commands. Everything is installed into .venv; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q -n 2 --durations=15
SCORERS := runs/scorers
ARMS := ratings strict ties probability thurstone
SEEDS := 0 1 2
SCORER = $(BIN)/python launch/train.py --config configs/edit_reward.py:shapes --workdir $(@D) --config.seed=$* $(RESUME)
RANKER = $(SCORER) --config.init=$(SCORERS)/ratings-$* --config.steps=1000 \
	--config.optimizer.learning_rate=1e-4 --config.objective.name
seeds = $(SEEDS:%=$(SCORERS)/$(1)-%)
RESUME = $(if $(wildcard $(@D)/checkpoints/[0-9]*),--resume)
COMPARE := $(BIN)/python launch/compare.py --config configs/reward_ip2p.py:shapes

# Large arrays on large pages: a training step on a CPU takes two thirds of the time. Nothing to systems other than Linux.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: help demo table ablations scorers test oracle lint clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: .venv/installed  ## train with and without reward, print the table, draw runs/demo/grid.png: ten minutes on two cores
	$(COMPARE) --arms "without reward" reward --seeds 1 --count 128 --workdir runs/demo

table: .venv/installed  ## the README's table: the same with three seeds and more scenes
	$(COMPARE) --arms "without reward" reward --seeds 3 --count 256 --workdir runs/comparison

ablations: .venv/installed  ## goes on from the table: scores, text or both; attention, addition or both
	$(COMPARE) --seeds 3 --count 256 --workdir runs/comparison

scorers: $(foreach arm,$(ARMS),$(addsuffix /model,$(call seeds,$(arm))))  ## the README's table of scorers: three seeds, each trained on ratings, then four rankings that go on from it
	$(BIN)/python launch/evaluate.py shapes_scorers --json $(SCORERS)/table.json \
		--arm "ratings" $(call seeds,ratings) \
		--arm "ranking, strict pairs" $(call seeds,strict) \
		--arm "ranking, ties disentangled" $(call seeds,ties) \
		--arm "the same by -log P" $(call seeds,probability) \
		--arm "the same by Thurstone" $(call seeds,thurstone)
	$(BIN)/python launch/evaluate.py shapes_scorer --model $(SCORERS)/thurstone-0 --curve $(SCORERS)/reliability.png

test: .venv/installed  ## the tests that need neither PyTorch nor patience
	$(PYTEST) -m "not oracle and not slow"

oracle: .venv/oracle  ## the others: slow ones, and those that compare with PyTorch, diffusers and transformers
	$(PYTEST) -m "oracle or slow"

lint: .venv/installed  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove what was installed and trained
	rm -rf .venv runs

# What is trained stays, whatever is newer; a training that was stopped goes on.
$(SCORERS)/ratings-%/model: | .venv/installed
	$(SCORER)

$(SCORERS)/strict-%/model: | $(SCORERS)/ratings-%/model
	$(RANKER)=uncertainty --config.data.ties="strict only"

$(SCORERS)/ties-%/model: | $(SCORERS)/ratings-%/model
	$(RANKER)=uncertainty --config.data.ties=disentangle

$(SCORERS)/probability-%/model: | $(SCORERS)/ratings-%/model
	$(RANKER)=negative_log_probability --config.data.ties=disentangle

$(SCORERS)/thurstone-%/model: | $(SCORERS)/ratings-%/model
	$(RANKER)=thurstone --config.data.ties=disentangle

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/oracle: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[oracle]'
	touch $@
