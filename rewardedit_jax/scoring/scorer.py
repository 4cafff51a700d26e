"""`Scorer`: load a reward model, score edits, save."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32
from PIL import Image

from rewardedit_jax.models.edit_reward import EditReward
from rewardedit_jax.models.reward_heads import aggregate
from rewardedit_jax.models.vision_plan import VisionPlan, plan_images
from rewardedit_jax.scoring.calibration import Calibration
from rewardedit_jax.scoring.edit_score import EditScore, matrix
from rewardedit_jax.scoring.images import AREA, PreparedImage
from rewardedit_jax.scoring.objectives import preference_probability
from rewardedit_jax.scoring.packing import ScorerBatch, ScorerItem, collate, prepare_item
from rewardedit_jax.scoring.prompts import PERSPECTIVES, QWEN_SYSTEM
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer, load_tokenizer
from rewardedit_jax.weights.engine import Params
from rewardedit_jax.weights.files import WeightFileError, read_json, write_json
from rewardedit_jax.weights.hub import find_model
from rewardedit_jax.weights.pretrained import load_pretrained, save_pretrained

Picture = str | Path | Image.Image | PreparedImage
_SORTED_AT_A_TIME = 16  # batches whose items are put into order of size, so that few sizes compile and little is padded


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
    def load(cls, model: str | Path, base: str | Path | None = None, dtype: DTypeLike | None = None) -> "Scorer":
        """A scorer from a directory, a training workdir or a hub id.

        Args:
          model: e.g. "runs/scorer", "TIGER-Lab/EditReward-Qwen2.5-VL-7B".
          base: the directory or hub id of the model that it was trained from, which has the tokenizer: published
            EditReward checkpoints come without.
          dtype: of computation and parameters, except the heads; None: bfloat16 on accelerators, float32 on a CPU.
        Raises:
          ModelNotFound, WeightFileError, WeightMismatch, FileNotFoundError, ValueError: a sentence on what is missing.
        """
        if dtype is None:
            dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        scorer = cls.read(model, base, dtype)
        if scorer.module.config.heads is None:
            raise WeightFileError(
                f"{model} has no reward heads (rm_heads.*, rm_head.*): it is a base model, no scorer."
            )
        return replace(scorer, params=jax.device_put(scorer.params, _everywhere()))

    @classmethod
    def read(cls, model: str | Path, base: str | Path | None = None, dtype: DTypeLike = jnp.float32) -> "Scorer":
        """The same with the parameters left in host memory; a base model, which has no heads, is read too.

        The embedding matrix of a base model is cut to the tokens that its tokenizer knows and the reward token.
        """
        directory = find_model(model, ())
        module, params = load_pretrained(directory, dtype, dtype)
        if not isinstance(module, EditReward):
            raise WeightFileError(f"{directory} holds a {type(module).__name__}, not a reward model of edits.")
        rows = module.config.text.vocab_size if module.config.heads else None
        tokenizer = load_tokenizer(directory, rows, base)
        module, params = _cut_to(tokenizer.reward_id + 1, module, params)
        if module.config.image_token_id != tokenizer.image_id:
            raise ValueError(
                f"the tokenizer's image token is {tokenizer.image_id}, that of {directory / 'config.json'} is "
                f"{module.config.image_token_id}: they belong to different models; give another base=."
            )
        told = read_json(directory / "config.json").get("reward_model") or {}
        system = told.get("system") or tokenizer.system or QWEN_SYSTEM
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

    def score(
        self,
        source: Picture | Sequence[Picture],
        edited: Picture | Sequence[Picture],
        instruction: str | Sequence[str],
        *,
        batch_size: int = 8,
        improvement: bool = False,
    ) -> EditScore | list[EditScore]:
        """Score one edit or many.

        Args:
          source, edited: paths or PIL images, one or a sequence.
          instruction: what was asked for. One source or instruction meets many edits, otherwise they go together.
          batch_size: edits at a time. Equal images of a batch are encoded once.
          improvement: score the unchanged sources too, to tell how much better each edit is than doing nothing.
        Returns:
          A score for one edit, else a list in the order given.
        Raises:
          ImageError, ValueError: naming the edit, for an image that cannot be scored, an empty instruction or one
            that contains tokens of the scorer, or lists of different lengths.
        """
        single = not any(isinstance(x, list | tuple) for x in (source, edited, instruction))
        edits = list(zip(*_aligned(source, edited, instruction), strict=True))
        scores = list(self.stream(self._prepared(edits), batch_size=batch_size, improvement=improvement))
        return scores[0] if single else scores

    @staticmethod
    def prefer(a: EditScore, b: EditScore) -> float:
        """Probability 0..1 that `a` is better than `b` under the Gaussians that one scorer predicts, Φ(d/s)."""
        return float(preference_probability(jnp.asarray(a.raw_overall), jnp.asarray(b.raw_overall)))

    def score_matrix(
        self, sources: Sequence[Image.Image], edited: Sequence[Image.Image], instructions: Sequence[str]
    ) -> Float[np.ndarray, "n 3"]:
        """Means of following, quality and overall: what benchmarks ask a scorer for."""
        return matrix(self.score(list(sources), list(edited), list(instructions)))

    def prepare(self, source: Picture, edited: Picture, instruction: str) -> ScorerItem:
        """One edit ready to be scored; everything that can be wrong with it is found here."""
        return prepare_item(source, edited, instruction, self.tokenizer, system=self.system, area=self.area)

    def stream(
        self, items: Iterable[ScorerItem], *, batch_size: int = 8, improvement: bool = False
    ) -> Iterator[EditScore]:
        """Scores of prepared edits, in their order, as they come; a few batches of them are in memory at a time."""
        items = iter(items)
        while chunk := list(islice(items, batch_size * _SORTED_AT_A_TIME)):
            raw = self._raw(chunk, batch_size)
            overall = self._overall(raw)
            unchanged = self._unchanged(chunk, batch_size) if improvement else [None] * len(chunk)
            yield from map(self._told, chunk, raw, overall, unchanged)

    def calibrate(self, scores: Sequence[EditScore], description: str) -> "Scorer":
        """This scorer with these scores, which it gave, as its reference; `description` says of which edits."""
        return replace(self, calibration=Calibration.of(scores, description))

    def _prepared(self, edits: Sequence[tuple[Picture, Picture, str]]) -> Iterator[ScorerItem]:
        for i, edit in enumerate(edits):
            try:
                yield self.prepare(*edit)
            except ValueError as error:
                raise type(error)(f"edit {i}: {error}" if len(edits) > 1 else str(error)) from error

    def _unchanged(self, items: Sequence[ScorerItem], batch_size: int) -> list[float]:
        """For each edit the overall mean of its source, left as it is; each source and instruction once."""
        known = {(item.source.digest, item.instruction): item.source for item in items}
        same = [self.prepare(source, source, instruction) for (_, instruction), source in known.items()]
        means = dict(zip(known, self._overall(self._raw(same, batch_size))[:, 0].tolist(), strict=True))
        return [means[item.source.digest, item.instruction] for item in items]

    def _told(
        self,
        item: ScorerItem,
        raw: Float32[np.ndarray, "k 2"],
        overall: Float32[np.ndarray, "2"],
        unchanged: float | None,
    ) -> EditScore:
        return EditScore(
            raw=raw,
            raw_overall=overall,
            improvement=None if unchanged is None else float(overall[0]) - unchanged,
            calibrated=self.calibration.share(overall) if self.calibration else None,
            composited=tuple(name for name in ("source", "edited") if getattr(item, name).composited),
        )

    def _overall(self, raw: Float32[np.ndarray, "n k 2"]) -> Float32[np.ndarray, "n 2"]:
        return np.asarray(aggregate(jnp.asarray(raw), self.module.config.heads.aggregation))

    def _raw(self, items: Sequence[ScorerItem], batch_size: int) -> Float32[np.ndarray, "n k 2"]:
        """[mean, log σ] of each prompt: items of like size go together, so that few programs compile."""
        raw = np.zeros((len(items), len(self.perspectives), 2), np.float32)
        order = sorted(range(len(items)), key=lambda i: _size(items[i]))
        rows = -(-batch_size // jax.device_count()) * jax.device_count()
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            batch = collate([items[i] for i in chosen], rows, perspectives=self.perspectives)
            raw[chosen] = self._run(batch)[: len(chosen)]
        return raw

    def _run(self, batch: ScorerBatch) -> Float32[np.ndarray, "b k 2"]:
        plan = plan_images(batch.grids, self.module.config.vision, batch.patches.shape[1])
        images, rows = (_spread(len(x)) for x in (batch.patches, batch.valid))
        inputs = jax.device_put((batch.patches, plan, batch.prompts), (images, images, rows))
        exact = jnp.dtype(self.module.dtype) == jnp.float32  # accelerators round float32 products unless told not to
        with jax.default_matmul_precision("highest" if exact else "default"):
            return np.asarray(_score(self.module, self.params, *inputs))


@partial(jax.jit, static_argnums=0)
def _score(
    module: EditReward, params: Params, patches: Float[Array, "n p c"], plan: VisionPlan, prompts: Any
) -> Float[Array, "b k 2"]:
    return module.apply({"params": params}, patches, plan, prompts, method="score")


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


def _size(item: ScorerItem) -> tuple[int, int]:
    """What a batch is padded to by its largest item; a source's edits stay together."""
    return max(item.source.n_patches, item.edited.n_patches), sum(map(len, item.prompts))


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


def _everywhere() -> NamedSharding:
    """A copy on each device."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec())


def _spread(length: int) -> NamedSharding:
    """A part on each device, where so many can be divided evenly."""
    everywhere = _everywhere()
    return everywhere if length % jax.device_count() else everywhere.update(spec=PartitionSpec("data"))
