"""`Scorer`: load an EditReward model, score edits, save it.

EditReward (arXiv:2509.26346) scores an edit by a head on a state of a vision-language model (section 3.1, eq. 1). Its
outputs are a Gaussian for each perspective (section 3.2, eq. 2), which are aggregated to the overall score (eq. 3).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, SupportsIndex

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float32, Num

from rewardedit_jax.arguments import as_integer, check_dtype, check_path, shown
from rewardedit_jax.data.image_arguments import image_list
from rewardedit_jax.data.prefetch import prefetch_map
from rewardedit_jax.data.runs import NonFiniteResults
from rewardedit_jax.models.decoder import check_tensor_axis
from rewardedit_jax.models.edit_reward import EditReward, PackedPrompts, aggregate
from rewardedit_jax.params import Params, fingerprint
from rewardedit_jax.scoring.arrays import array_prompts, score_arrays
from rewardedit_jax.scoring.edit_score import Calibration, EditScore, Unscorable, check_score
from rewardedit_jax.scoring.images import AREA
from rewardedit_jax.scoring.inference import CHUNK_BATCHES, Inference, scorer_mesh, shard_weights
from rewardedit_jax.scoring.objectives import preference_probability
from rewardedit_jax.scoring.opening import OpenedScorer, open_scorer
from rewardedit_jax.scoring.packing import ScorerItem, prepare_item, prepared
from rewardedit_jax.scoring.prompts import PERSPECTIVES, QWEN_SYSTEM
from rewardedit_jax.scoring.tokenizer import ScorerTokenizer
from rewardedit_jax.weights.files import WeightFileError, read_json, write_json
from rewardedit_jax.weights.pretrained import default_dtype, write_network
from rewardedit_jax.weights.saving import replace_model
from rewardedit_jax.weights.tokenizer_files import save_tokenizer

Picture = Any  # a path, a PIL image, an array uint8[h, w, 3] or a PreparedImage
EMBEDDING = "decoder/embed_tokens/embedding"  # path of the parameter whose last row is the reward token's


@dataclass(frozen=True, eq=False)
class Scorer:
    """A reward model of edits (EditReward): network, parameters, tokenizer and input settings."""

    module: EditReward
    params: Params
    tokenizer: ScorerTokenizer
    system: str = QWEN_SYSTEM  # text of the system turn
    area: int = AREA  # pixels that images are resized to
    calibration: Calibration | None = None

    @classmethod
    def load(
        cls,
        model: str | Path,
        base: str | Path | None = None,
        dtype: DTypeLike | None = None,
        tensor: SupportsIndex = 1,
        *,
        allow_nonfinite: bool = False,
    ) -> "Scorer":
        """A scorer from a directory, a training workdir or a hub id.

        Args:
          model: such as "runs/scorer" or "TIGER-Lab/EditReward-Qwen2.5-VL-7B".
          base: directory or hub id of the base model, for its tokenizer: published EditReward checkpoints have none.
            Only the tokenizer is downloaded.
          dtype: "float32", "bfloat16" or "float16", of computation and parameters, except the heads; None: bfloat16 on
            accelerators, float32 on a CPU.
          tensor: number of devices that share one copy of the weights, for models too large for one device. It must
            divide the number of devices and the model's key heads (4 for Qwen2.5-VL-7B). The copies share the edits.
          allow_nonfinite: load a model all the same whose weights are NaN or infinite in some places.
        Raises:
          ModelNotFound, WeightFileError, WeightMismatch, FileNotFoundError, ValueError: something is missing or does
            not fit; the message names it.
        """
        check_path("model", model)
        if base is not None:
            check_path("base", base)
        if dtype is not None:
            check_dtype("dtype", dtype)
        tensor = as_integer("tensor", tensor)
        mesh = scorer_mesh(tensor)  # first, so that a wrong `tensor` fails before gigabytes are read
        opened = open_scorer(model, base, default_dtype() if dtype is None else dtype, allow_nonfinite)
        config = opened.module.config
        if config.heads is None:
            raise WeightFileError(
                f"{model} has no reward heads: expected tensors named rm_heads.* or rm_head.*; it is a base model."
            )
        check_tensor_axis(config.text, tensor)
        return cls._of(opened, shard_weights(opened.read(), mesh))

    @classmethod
    def read(
        cls,
        model: str | Path,
        base: str | Path | None = None,
        dtype: DTypeLike = jnp.float32,
        *,
        allow_nonfinite: bool = False,
    ) -> "Scorer":
        """As `load`, with parameters in host memory; also reads base models, which have no heads."""
        opened = open_scorer(model, base, dtype, allow_nonfinite)
        return cls._of(opened, opened.read())

    @classmethod
    def _of(cls, opened: OpenedScorer, params: Params) -> "Scorer":
        return cls(opened.module, params, opened.tokenizer, opened.system, opened.area, opened.calibration)

    def save(self, directory: str | Path) -> None:
        """Write a directory that `Scorer.load` reads: network, tokenizer, calibration.

        It replaces the model that is there; other files stay. If it cannot be written, or parameters are not finite
        (ValueError), the old model stays.
        """
        check_path("directory", directory)
        with replace_model(Path(directory)) as new:
            write_network(self.module, self.params, new)
            config = read_json(new / "config.json")
            # `to_hf` has the network's settings; how its inputs are made belongs to the scorer.
            config["reward_model"] |= {"system": self.system, "area": self.area}
            write_json(config, new / "config.json")
            save_tokenizer(self.tokenizer.base, new)
            if self.calibration:
                self.calibration.save(new)

    @property
    def perspectives(self) -> tuple[str, ...]:
        """The perspectives that the scorer has a prompt for."""
        return PERSPECTIVES[: self.module.config.heads.prompts]

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that differ for scorers whose scores, or the meaning of their scores, differ."""
        calibration = (self.calibration.description, self.calibration.outputs.tobytes()) if self.calibration else ()
        lora = () if self.module.lora is None else (repr(self.module.lora),)
        return fingerprint(self.params, repr(self.module.config), self.system, str(self.area), *lora, *calibration)

    def score(
        self,
        source: Picture | Sequence[Picture],
        edited: Picture | Sequence[Picture],
        instruction: str | Sequence[str],
        *,
        batch_size: SupportsIndex = 8,
        improvement: bool = True,
    ) -> EditScore | list[EditScore]:
        """Score one edit or many.

        Args:
          source, edited: paths, PIL images or arrays (NumPy, JAX, or PyTorch in host memory) uint8[H, W, 3], also
            [H, W] for grey and [H, W, 4] for RGBA; one or several, as a sequence or an array uint8[N, H, W, 3].
          instruction: what the edit was asked to change. A single source or instruction is used for all edits;
            sequences must have one length.
          batch_size: edits at a time. A source is encoded once for consecutive edits.
          improvement: also score the unchanged sources, and report how much better each edit is than no edit. This
            adds one edit per source and instruction.
        Returns:
          A score for one edit, else a list in the order of the arguments.
        Raises:
          ImageError, ValueError: an image that cannot be scored, an instruction that is no text, is empty or contains
            tokens of the scorer, sequences of different lengths, or another batch size; names the edit or argument.
          NonFiniteResults: the network gave NaN or infinity for some edits. It holds the scores of the others.
        """
        batch_size = as_integer("batch_size", batch_size, 1)
        single = all(image_list(x) is None for x in (source, edited, instruction))
        if image_list(source) is None:
            source = prepared(source, "source", self.area)  # once for all its edits
        edits = list(zip(*_aligned(source, edited, instruction), strict=True))
        items = self._prepare_all(edits, batch_size * CHUNK_BATCHES)
        scores = list(self.stream(items, batch_size=batch_size, improvement=improvement))
        if any(isinstance(score, Unscorable) for score in scores):
            raise NonFiniteResults(scores)
        return scores[0] if single else scores

    @staticmethod
    def prefer(a: EditScore, b: EditScore) -> float:
        """Probability 0..1 that `a` is better than `b` under the Gaussians of one scorer, Φ(d/s).

        Raises:
          ValueError: an argument is no `EditScore`, or not finite.
        """
        check_score("a", a)
        check_score("b", b)
        return float(preference_probability(jnp.asarray(a.raw_overall), jnp.asarray(b.raw_overall)))

    def prepare(self, source: Picture, edited: Picture, instruction: str) -> ScorerItem:
        """One edit, ready to be scored; raises all that is wrong with it."""
        if not isinstance(instruction, str):
            raise ValueError(f"instruction={shown(instruction)}: expected a text that says what to change.")
        return prepare_item(source, edited, instruction, self.tokenizer, system=self.system, area=self.area)

    def stream(
        self, items: Iterable[ScorerItem | Unscorable], *, batch_size: SupportsIndex = 8, improvement: bool = True
    ) -> Iterator[EditScore | Unscorable]:
        """Scores of prepared edits, in their order, as they are computed; at most 16 batches are in memory.

        An `Unscorable` among the items is yielded at its position. An edit whose score is not finite gets one too.
        """
        batch_size = as_integer("batch_size", batch_size, 1)
        items, inference = iter(items), None
        while chunk := list(islice(items, batch_size * CHUNK_BATCHES)):
            edits = [item for item in chunk if not isinstance(item, Unscorable)]
            baselines = self._unchanged(edits) if improvement else {}
            inputs, scores = [*edits, *baselines.values()], iter(())
            if inputs:
                # The first chunk sets the batch size of the run. Unscorable edits count, because later chunks may have
                # fewer of them.
                size = max(len(inputs), len(chunk))
                inference = inference or Inference(self.module, self.params, self.perspectives, size, batch_size)
                scores = self._scores(edits, inference.outputs(inputs), baselines)
            yield from (item if isinstance(item, Unscorable) else next(scores) for item in chunk)

    def prompts_for(self, instructions: Sequence[str], height: SupportsIndex, width: SupportsIndex) -> PackedPrompts:
        """The prompts of `score_arrays`, in host memory: a row for each instruction, for images of this size in pixels.

        Rows do not depend on their place: they may be repeated, stacked for `lax.scan` or divided over devices.
        Raises ValueError for sides that are not multiples of 28, no instructions, or one that `score` refuses.
        """
        height, width = as_integer("height", height, 1), as_integer("width", width, 1)
        return array_prompts(instructions, height, width, self.tokenizer, self.system, len(self.perspectives))

    def score_arrays(
        self,
        params: Params,
        sources: Num[Array | np.ndarray, "s h w 3"],
        edited: Num[Array | np.ndarray, "b h w 3"],
        prompts: PackedPrompts,
    ) -> Float32[Array, "b k 2"]:
        """(mean, log σ) of each prompt of each edit: pure and differentiable, for use within `jax.jit`.

        Args:
          params: of this network, such as `scorer.params`. What a jitted function closes over becomes a constant of
            the program, so they are an argument.
          sources, edited: uint8 or float images of one size, 0..255. Each source has b / s consecutive edits.
          prompts: `prompts_for` their size and instructions. The scores of rows for another size are NaN.
        Raises:
          ValueError: the shapes do not fit together.
        """
        return score_arrays(self.module, params, sources, edited, prompts)

    def calibrate(self, scores: Sequence[EditScore], description: str) -> "Scorer":
        """This scorer with a reference: scores that it gave, and a description of the scored edits."""
        return replace(self, calibration=Calibration.of(scores, description))

    def _prepare_all(self, edits: Sequence[tuple[Picture, Picture, str]], ahead: int) -> Iterator[ScorerItem]:
        for i, item in enumerate(prefetch_map(self.prepare, edits, ahead)):
            try:
                yield item.result()
            except ValueError as error:  # the type is kept: callers may catch ImageError
                raise type(error)(f"edit {i}: {error}" if len(edits) > 1 else str(error)) from error

    def _unchanged(self, items: Sequence[ScorerItem]) -> dict[tuple[bytes, str], ScorerItem]:
        """For each source and instruction, once, the edit that leaves the source unchanged."""
        sources = {_request(item): item.source for item in items}
        return {request: self.prepare(source, source, request[1]) for request, source in sources.items()}

    def _scores(
        self, items: Sequence[ScorerItem], raw: Float32[np.ndarray, "m k 2"], requests: Iterable[tuple[bytes, str]]
    ) -> Iterator[EditScore | Unscorable]:
        """Scores of `items`, whose outputs are the first rows of `raw`; unchanged sources of `requests` follow."""
        # Each unchanged source is one row, and the baseline of all edits with its instruction.
        n, overall = len(items), np.asarray(aggregate(jnp.asarray(raw), self.module.config.heads.aggregation))  # eq. 3
        baselines = dict(zip(requests, overall[n:], strict=True))
        calibrated = self.calibration.shares(overall[:n]) if self.calibration else [None] * n
        for i, item in enumerate(items):
            baseline = baselines.get(_request(item))
            score = EditScore(
                raw=raw[i],
                raw_overall=overall[i],
                raw_unchanged=baseline,
                improvement=None if baseline is None else float(overall[i, 0]) - float(baseline[0]),
                calibrated=calibrated[i],
                calibration=self.calibration and self.calibration.description,
                composited=tuple(name for name in ("source", "edited") if getattr(item, name).composited),
            )
            numbers = f"the score {score.overall.mean} ± {score.overall.std} (improvement: {score.improvement})"
            yield score if score.is_finite else Unscorable.not_finite(numbers, self.module.dtype)


def _aligned(*columns: Any) -> list[list[Any]]:
    """Lists of one length; single values are repeated.

    Raises ValueError for lists of different lengths, and for a single edited image with an empty list.
    """
    lists = [image_list(x) for x in columns]
    lengths = {len(x) for x in lists if x is not None} or {1}
    if len(lengths) > 1 or (lengths == {0} and lists[1] is None):
        found = ", ".join("one" if x is None else str(len(x)) for x in lists)
        raise ValueError(
            f"numbers of sources, edited images and instructions: {found}; expected lists of one length, or single "
            "values."
        )
    return [[one] * min(lengths) if x is None else x for one, x in zip(columns, lists, strict=True)]


def _request(item: ScorerItem) -> tuple[bytes, str]:
    """What the edit was made from: its source and instruction."""
    return item.source.digest, item.instruction
