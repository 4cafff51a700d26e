"""Command line of launch/curate.py: its arguments, and the checks between them."""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rewardedit_jax.command_line import add_allow_outside, add_skip_bad, local_path, png_file, whole_number
from rewardedit_jax.curation.duplicates import MAX_BITS
from rewardedit_jax.curation.rules import RULES, SCORED
from rewardedit_jax.curation.selection import Settings

# Measured on real edits: docs/curation.md.
NEAR, UNCHANGED, CONTRADICTION = 6, 8.0, 2.0


def add_curation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of launch/curate.py."""
    add = parser.add_argument
    add("--data", required=True, type=Path, help="a prepared data set, or a .json or .jsonl list of triplets")
    add("--out", required=True, type=local_path, help="folder of the kept edits, their provenance and all results")
    add("--rule", required=True, choices=RULES, help="what edits are ranked by")
    add("--keep", required=True, type=_keep, metavar="SHARE_OR_N", help="0.4: this share of all edits; 20000: so many")
    add("--k", type=_number, default=1.0, help="standard deviations that lcb subtracts (default: %(default)s)")
    add("--seed", type=whole_number, default=0, help="of the rule random (default: %(default)s)")
    add("--quota", metavar="FIELD", help="keep the same share of the edits with each value of this field")
    add("--labels", type=Path, help="judged scores, as launch/label.py writes them (default: those of the data)")
    add("--scores", type=local_path, help="a file of scores, used and completed instead of OUT/scores.jsonl")
    add("--facts", type=local_path, help="a file of image facts, used and completed instead of OUT/facts.jsonl")
    _add_filters(parser)
    _add_scorer(parser)
    add("--shard", metavar="I/N", help="only compute facts and scores of part I of N, on another machine")
    add("--merge", action="store_true", help="first join the facts and scores of all shards, which lie in OUT")
    add("--png", type=png_file, help="a sheet of the best edits, those around the threshold, and the worst")
    add_allow_outside(parser)
    add_skip_bad(parser, "edits that cannot be read or scored")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    bits = f"near duplicates differ in at most N of 256 bits; 0..{MAX_BITS}, -1: none are near (default: %(default)s)"
    parser.add_argument("--near", type=_bits, default=NEAR, metavar="N", help=bits)
    change = "edits that change no cell by this much, 0..255, are unchanged; 0: none are (default: %(default)s)"
    parser.add_argument("--unchanged", type=_number, default=UNCHANGED, metavar="X", help=change)
    gap = "judged scores of one edit that differ by more, 0..5, are contradictory (default: %(default)s)"
    parser.add_argument("--contradiction", type=_number, default=CONTRADICTION, metavar="X", help=gap)


def _add_scorer(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--scorer", metavar="DIR", help="directory, training workdir, hub id, or the name of a scorer that ships")
    add("--base", help="directory or hub id of the base model, for the tokenizer of published checkpoints")
    add("--batch-size", type=_positive, default=8, help="edits scored at a time (default: %(default)s)")
    add("--tensor", type=int, default=1, metavar="N", help="devices per copy of the scorer (default: 1)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the scorer; default: bfloat16, on a CPU float32")


def check_arguments(parser: argparse.ArgumentParser, a: argparse.Namespace) -> None:
    """What argparse has no rules for: combinations of arguments."""
    if a.rule in SCORED and not (a.scorer or a.scores or a.merge):
        parser.error(f"--rule {a.rule} needs --scorer or --scores")
    if a.shard and (a.merge or a.scores or a.facts):
        parser.error("--shard excludes --merge, --scores and --facts: a shard writes files of its own")


def settings_of(a: argparse.Namespace) -> Settings:
    """How edits are selected."""
    return Settings(a.rule, a.keep, a.near, a.unchanged, a.contradiction)


def described(a: argparse.Namespace) -> dict[str, Any]:
    """The settings that the kept edits follow from, by the names of their arguments."""
    # As a text: 1 is one edit and 1.0 are all, but the numbers are equal.
    return {**asdict(settings_of(a)), "keep": str(a.keep), "k": a.k, "seed": a.seed, "quota": a.quota}


def _keep(text: str) -> int | float:
    """A share such as 0.4 or 1.0, or a whole number such as 20000."""
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1 or text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share above 0, up to 1.0, or a whole number, 1 or more")
    return share


def _positive(text: str) -> int:
    return whole_number(text, 1)


def _bits(text: str) -> int:
    if text == "-1":
        return -1
    if (bits := whole_number(text)) > MAX_BITS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected -1..{MAX_BITS}")
    return bits


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, 0 or more")
    return value
