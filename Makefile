# The README's commands. Everything is installed into .venv; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test oracle lint clean

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/oracle: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[oracle]'
	touch $@

clean:
	rm -rf .venv runs
