"""The folders that tests read from."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
# Inputs and outputs of the published PyTorch code, which lie in the repository: references/README.md describes them.
REFERENCES = ROOT / "tests" / "references"
# Public benchmarks and data sets of other authors. They stay outside the repository, whose licence does not cover them.
SHARED_DATA = ROOT.parent / "shared" / "data"
# Reference outputs of other authors' code, which lie beside that data.
SHARED_FIXTURES = ROOT.parent / "shared" / "fixtures"
