"""`Scorer`: load a reward model, score edits, save."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float32
from PIL import Image

from rewardedit_jax.models.decoder import check_tensor_axis
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig, aggregate
from rewardedit_jax.params import Params, fingerprint
from rewardedit_jax.scoring.batching import AT_A_TIME
from rewardedit_jax.scoring.calibration import Calibration
from rewardedit_jax.scoring.devices import divide_weights, scorer_mesh
from rewardedit_jax.scoring.edit_score import EditScore, Unscorable
from rewardedit_jax.scoring.images import AREA, PreparedImage
from rewardedit_jax.scoring.inference import Inference
from rewardedit_jax.scoring.objectives import preference_probability
from rewardedit_jax.scoring.packing import ScorerItem, prepare_item, prepared
from rewardedit_jax.scoring.prompts import PERSPECTIVES, QWEN_SYSTEM
from rewardedit_jax.scoring.reading import read_ahead
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer, load_tokenizer, reward_rows
from rewardedit_jax.weights.files import WeightFileError, read_json, read_weights, write_json
from rewardedit_jax.weights.hub import find_model
from rewardedit_jax.weights.pretrained import load_pretrained, save_pretrained

Picture = str | Path | Image.Image | PreparedImage
_SETTINGS = ("kind", "aggregation", "positions", "system", "area")  # under "reward_model" in config.json


@dataclass(frozen=True, eq=False)
class Scorer:
    """A reward model of edits (EditReward): network, parameters, tokenizer, and how its inputs are made."""

    module: EditReward
    params: Params
    tokenizer: ScorerTokenizer
    system: str = QWEN_SYSTEM  # text of the system turn
    area: int = AREA  # pixels that images are resized to
    calibration: Calibration | None = None

    @classmethod
    def load(
        cls, model: str | Path, base: str | Path | None = None, dtype: DTypeLike | None = None, tensor: int = 1
    ) -> "Scorer":
        """A scorer from a directory, a training workdir or a hub id.

        Args:
          model: e.g. "runs/scorer", "TIGER-Lab/EditReward-Qwen2.5-VL-7B".
          base: the directory or hub id of the model that it was trained from, which has the tokenizer: published
            EditReward checkpoints come without. Nothing else of it is downloaded.
          dtype: of computation and parameters, except the heads; None: bfloat16 on accelerators, float32 on a CPU.
          tensor: devices that share one copy of the weights, for models that are too large for one. It must divide the
            number of devices and the model's key heads (4 of Qwen2.5-VL-7B). Edits are dealt out over the copies.
        Raises:
          ModelNotFound, WeightFileError, WeightMismatch, FileNotFoundError, ValueError: a sentence on what is missing.
        """
        mesh = scorer_mesh(tensor)  # first: what does not fit is told before gigabytes are read
        if dtype is None:
            dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        scorer = cls.read(model, base, dtype)
        if scorer.module.config.heads is None:
            raise WeightFileError(
                f"{model} has no reward heads (rm_heads.*, rm_head.*): it is a base model, no scorer."
            )
        check_tensor_axis(scorer.module.config.text, tensor)
        return replace(scorer, params=divide_weights(scorer.params, mesh))

    @classmethod
    def read(cls, model: str | Path, base: str | Path | None = None, dtype: DTypeLike = jnp.float32) -> "Scorer":
        """The same with the parameters left in host memory; a base model, which has no heads, is read too.

        The embedding matrix of a base model is cut to the tokens that its tokenizer knows and the reward token.
        """
        # Small files first: what is wrong with a tokenizer is told before gigabytes are downloaded or read.
        directory = find_model(model, (), weights=False)
        config = read_json(directory / "config.json")
        if not config.get("vision_config"):
            raise WeightFileError(f"{directory} holds no reward model of edits: its config.json has no vision_config.")
        tokenizer = load_tokenizer(directory, base)
        told = config.get("reward_model") or {}
        if unknown := told.keys() - _SETTINGS:
            raise WeightFileError(
                f"{directory / 'config.json'}: reward_model has {', '.join(sorted(unknown))}; known are "
                f"{', '.join(_SETTINGS)}."
            )
        system = told.get("system")
        if system is None:
            system = tokenizer.default_system()
        directory = find_model(model, ())
        if rows := reward_rows(read_weights(directory).shapes):
            tokenizer.check_rows(rows)
        image_id = config.get("image_token_id", EditRewardConfig.image_token_id)
        if image_id != tokenizer.image_id:
            raise ValueError(
                f"the tokenizer's image token is {tokenizer.image_id}, that of {directory / 'config.json'} is "
                f"{image_id}: they belong to different models; give another base=."
            )
        module, params = _cut_to(tokenizer.reward_id + 1, *load_pretrained(directory, dtype, dtype))
        return cls(module, params, tokenizer, system, told.get("area", AREA), Calibration.read(directory))

    def save(self, directory: str | Path) -> None:
        """Write a directory that `Scorer.load` reads: network, tokenizer, calibration."""
        directory = Path(directory)
        save_pretrained(self.module, self.params, directory)
        config = read_json(directory / "config.json")
        config["reward_model"] |= {"system": self.system, "area": self.area}
        write_json(config, directory / "config.json")
        self.tokenizer.base.save_pretrained(directory)
        if self.calibration:
            self.calibration.save(directory)

    @property
    def perspectives(self) -> tuple[str, ...]:
        """What is asked about an edit, a prompt each."""
        return PERSPECTIVES[: self.module.config.heads.prompts]

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that scorers which give other scores, or mean others by them, do not share."""
        calibration = (self.calibration.description, self.calibration.outputs.tobytes()) if self.calibration else ()
        return fingerprint(self.params, repr(self.module.config), self.system, str(self.area), *calibration)

    def score(
        self,
        source: Picture | Sequence[Picture],
        edited: Picture | Sequence[Picture],
        instruction: str | Sequence[str],
        *,
        batch_size: int = 8,
        improvement: bool = True,
    ) -> EditScore | list[EditScore]:
        """Score one edit or many.

        Args:
          source, edited: paths or PIL images, one or a sequence.
          instruction: what was asked for. One source or instruction meets many edits, otherwise they go together.
          batch_size: edits at a time. A source is encoded once for edits that follow each other.
          improvement: score the unchanged sources too, to tell how much better each edit is than doing nothing; that
            is one more edit for every source.
        Returns:
          A score for one edit, else a list in the order given.
        Raises:
          ImageError, ValueError: naming the edit, for an image that cannot be scored, an empty instruction or one
            that contains tokens of the scorer, or lists of different lengths.
        """
        single = not any(isinstance(x, list | tuple) for x in (source, edited, instruction))
        if not isinstance(source, list | tuple):
            source = prepared(source, "source", self.area)  # once for all its edits
        edits = list(zip(*_aligned(source, edited, instruction), strict=True))
        items = self._read(edits, batch_size * AT_A_TIME)
        scores = list(self.stream(items, batch_size=batch_size, improvement=improvement))
        return scores[0] if single else scores

    @staticmethod
    def prefer(a: EditScore, b: EditScore) -> float:
        """Probability 0..1 that `a` is better than `b` under the Gaussians that one scorer predicts, Φ(d/s)."""
        return float(preference_probability(jnp.asarray(a.raw_overall), jnp.asarray(b.raw_overall)))

    def prepare(self, source: Picture, edited: Picture, instruction: str) -> ScorerItem:
        """One edit ready to be scored; everything that can be wrong with it is found here."""
        if not isinstance(instruction, str):
            raise TypeError(f"an instruction is a text, not {instruction!r}.")
        return prepare_item(source, edited, instruction, self.tokenizer, system=self.system, area=self.area)

    def stream(
        self, items: Iterable[ScorerItem | Unscorable], *, batch_size: int = 8, improvement: bool = True
    ) -> Iterator[EditScore | Unscorable]:
        """Scores of prepared edits, in their order, as they come; 16 batches of edits are in memory at a time.

        `Unscorable` in the place of an edit that could not be prepared comes out in the same place.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; one edit at a time is the least.")
        items, inference = iter(items), None
        while chunk := list(islice(items, batch_size * AT_A_TIME)):
            edits = [item for item in chunk if not isinstance(item, Unscorable)]
            unchanged = self._unchanged(edits) if improvement else {}
            asked, scores = [*edits, *unchanged.values()], iter(())
            if asked:  # how large a run it is, the first chunk says, with those that cannot be scored
                inference = inference or self._inference(max(len(asked), len(chunk)), batch_size)
                scores = self._scores(edits, inference.outputs(asked), unchanged)
            yield from (item if isinstance(item, Unscorable) else next(scores) for item in chunk)

    def calibrate(self, scores: Sequence[EditScore], description: str) -> "Scorer":
        """This scorer with these scores, which it gave, as its reference; `description` says of which edits."""
        return replace(self, calibration=Calibration.of(scores, description))

    def _inference(self, edits: int, batch_size: int) -> Inference:
        return Inference(self.module, self.params, self.perspectives, edits, batch_size)

    def _read(self, edits: Sequence[tuple[Picture, Picture, str]], ahead: int) -> Iterator[ScorerItem]:
        for i, item in enumerate(read_ahead(self.prepare, edits, ahead)):
            try:
                yield item.result()
            except (ValueError, TypeError) as error:
                raise type(error)(f"edit {i}: {error}" if len(edits) > 1 else str(error)) from error

    def _unchanged(self, items: Sequence[ScorerItem]) -> dict[tuple[bytes, str], ScorerItem]:
        """The sources, left as they are: each once for every instruction that it came with."""
        sources = {_asked(item): item.source for item in items}
        return {asked: self.prepare(source, source, asked[1]) for asked, source in sources.items()}

    def _scores(
        self,
        items: Sequence[ScorerItem],
        raw: Float32[np.ndarray, "m k 2"],
        unchanged: Iterable[tuple[bytes, str]],
    ) -> Iterator[EditScore]:
        """Of items whose network's numbers come first, those of `unchanged` behind."""
        overall, n = self._overall(raw), len(items)
        doing_nothing = dict(zip(unchanged, overall[n:, 0].tolist(), strict=True))
        calibrated = self.calibration.shares(overall[:n]) if self.calibration else [None] * n
        for i, item in enumerate(items):
            baseline = doing_nothing.get(_asked(item))
            yield EditScore(
                raw=raw[i],
                raw_overall=overall[i],
                improvement=None if baseline is None else float(overall[i, 0]) - baseline,
                calibrated=calibrated[i],
                calibration=self.calibration and self.calibration.description,
                composited=tuple(name for name in ("source", "edited") if getattr(item, name).composited),
            )

    def _overall(self, raw: Float32[np.ndarray, "n k 2"]) -> Float32[np.ndarray, "n 2"]:
        return np.asarray(aggregate(jnp.asarray(raw), self.module.config.heads.aggregation))


def _aligned(*given: Any) -> list[list[Any]]:
    """Sequences of one length; what is single is repeated. Raises ValueError for lists of different lengths."""
    lists = [list(x) if isinstance(x, list | tuple) else None for x in given]
    lengths = {len(x) for x in lists if x is not None} or {1}
    if len(lengths) > 1:
        told = ", ".join("one" if x is None else str(len(x)) for x in lists)
        raise ValueError(
            f"sources, edited images and instructions are {told}: give lists of one length, or single ones."
        )
    return [[one] * min(lengths) if x is None else x for one, x in zip(given, lists, strict=True)]


def _asked(item: ScorerItem) -> tuple[bytes, str]:
    """What an edit was made of: its source and instruction."""
    return item.source.digest, item.instruction


def _cut_to(rows: int, module: EditReward, params: Params) -> tuple[EditReward, Params]:
    """Without the embedding rows that no token has; base models are padded with such."""
    text, decoder = module.config.text, params["decoder"]
    if text.vocab_size < rows:
        raise ValueError(
            f"the model has {text.vocab_size} embedding rows, its tokenizer needs {rows}: give another base=."
        )
    embedding = {"embedding": decoder["embed_tokens"]["embedding"][:rows]}
    config = replace(module.config, text=replace(text, vocab_size=rows))
    return module.clone(config=config), {**params, "decoder": {**decoder, "embed_tokens": embedding}}
