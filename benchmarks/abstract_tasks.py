"""The tasks of recipes without data, weights and tokenizers: shapes and types alone, to compile their training steps.

A model of the Hugging Face hub, or one that is still to be made, is replaced by the sizes that its authors published.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from tokenizers import Tokenizer
from tokenizers.models import BPE

from rewardedit_jax.bases import base_named
from rewardedit_jax.bases.base import Base, Component, Dropout, Precomputed, Start
from rewardedit_jax.bases.instruct_pix2pix import Inputs
from rewardedit_jax.bases.smartedit import Inputs as SmartEditInputs
from rewardedit_jax.bases.smartedit import SmartEdit
from rewardedit_jax.data.llama_tokenizer import TEXT_LENGTH, LlamaTokenizer
from rewardedit_jax.data.pipeline import EditBatch
from rewardedit_jax.editing.cache_layout import CacheLayout
from rewardedit_jax.editing.task import EditingTask
from rewardedit_jax.models.decoder import DecoderConfig, check_tensor_axis
from rewardedit_jax.models.edit_reward import EditReward, EditRewardConfig, PackedPrompts, RewardHeadsConfig
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.models.vision_plan import plan_images
from rewardedit_jax.params import abstract_params, find_rule
from rewardedit_jax.scoring.images import MERGE, PATCH_VALUES
from rewardedit_jax.scoring.objectives import objective
from rewardedit_jax.scoring.pairs import IMAGES, PairBatch
from rewardedit_jax.scoring.task import ScoringTask
from rewardedit_jax.scoring.tokenizer import load_scorer_tokenizer
from rewardedit_jax.shapes.tasks import ShapesEditingTask, ShapesScoringTask
from rewardedit_jax.shapes.tokenizers import shapes_tokenizer
from rewardedit_jax.training.task import Task
from rewardedit_jax.weights.hub import SHIPPED, find_tokenizer

_CACHED = "bfloat16"  # the type that launch/cache.py stores by default
_ADDED, _REPLY = 35, 32  # tokens that SmartEdit adds to LLaMA's vocabulary, and those of an image among them
# What config.json files of InstructPix2Pix, CLIP ViT-L/14 and LLaVA-7B 1.1 (Vicuna) say, besides the defaults of
# the networks here. Those of Q-Former and interaction module are SmartEdit's.
NETWORKS = {
    "unet": {"in_channels": 8, "cross_attention_dim": 768, "sample_size": 64},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "sample_size": 512,
    },
    "text_encoder": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_encoder": {
        "architectures": ["CLIPVisionModel"],
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
    "language_model": {
        "model_type": "llava",
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "vocab_size": 32_000 + _ADDED,
        "mm_hidden_size": 1024,
    },
    "qformer": {"num_queries": 77},
    "interaction": {"context_size": 768},
}
# Qwen2.5-VL-7B has the defaults of its config here, with the words that its tokenizer knows and the reward token.
_QWEN_WORDS = 151_665 + 1


def task_of(config: ConfigDict) -> Task:
    """The task of a recipe, of which the trainer's step can be compiled; it has `abstract_batch()` in place of data."""
    if config.task not in _TASKS:
        raise ValueError(f"task={config.task!r}: expected one of {', '.join(_TASKS)}")
    return _TASKS[config.task](config)


class _Editing(EditingTask):
    """The editing task, with the loss that the trainer compiles."""

    def __init__(self, config: ConfigDict):
        self.config, self.trainable = config, tuple(config.trainable)
        self.is_here = _is_here(config.init)
        self.start = _start(config, self.is_here)
        self.base = self.start.base
        self.dropout = Dropout(config.conditioning_dropout, config.reward.dropout)
        self.cache = None
        if config.data.cache:
            self.cache = _Cache(self.base, self.start, self._batch(1), config.data.flip)

    def abstract_batch(self) -> EditBatch | Precomputed:
        """Shapes and types of a batch over all hosts."""
        count = self.config.batch_size * self.config.accumulate
        return self._batch(count) if self.cache is None else self.cache.batch(count)

    def _batch(self, count: int) -> EditBatch:
        side = self.config.data.resolution
        images = jax.ShapeDtypeStruct((count, side, side, 3), np.uint8)
        if not self.is_here:
            return EditBatch(images, images, _inputs(self.base, count))
        pixels = np.zeros((1, side, side, 3), np.uint8)
        inputs = self.read(list(pixels), [""], [None], report_cut=lambda text, cut: None)
        return EditBatch(images, images, _repeated(inputs, count))


class _Cache:
    """Shapes and types of cached examples, and the program that restores them."""

    def __init__(self, base: Base, start: Start, example: EditBatch, flip: bool):
        self._layout = CacheLayout.of_example(base, start.abstract_params(), example, flip, _CACHED)
        # One row for all examples, whose values do not change the program.
        self._shared = self._layout.shared.unpack(bytes(self._layout.shared.nbytes))

    def batch(self, count: int) -> Precomputed:
        images, request = (part.tree(part.columns(1)) for part in (self._layout.images, self._layout.request))
        return _repeated(images.replace(request=request.request), count)

    def restore(self, batch: Precomputed) -> Precomputed:
        return self._layout.restore(batch, self._shared)


class _ShapesEditing(_Editing, ShapesEditingTask):
    """The same with the further loss of the shapes world."""


class _Scoring(ScoringTask):
    """The scoring task, with the loss that the trainer compiles."""

    def __init__(self, config: ConfigDict):
        self.config, self.trainable = config, tuple(config.trainable)
        heads = RewardHeadsConfig(config.heads.kind, tuple(config.heads.hidden_sizes), config.heads.aggregation)
        settings = {name: value for name, value in config.objective.settings.items() if value is not None}
        self.objective = objective(config.objective.name, heads.prompts, **settings)
        self.scorer = SimpleNamespace(module=_scorer(config, heads))  # all that the loss uses of it
        check_tensor_axis(self.scorer.module.config.text, config.mesh.tensor)

    def abstract_batch(self) -> PairBatch:
        """Shapes and types of a batch over all hosts, of rows and images of the recipe's sizes."""
        data, network = self.config.data, self.scorer.module.config
        pairs, width = self.config.batch_size * self.config.accumulate, data.image_patches
        of_images, of_edits = (partial(_struct, pairs, parts) for parts in (IMAGES, 2))
        # A square image, or its largest part, which `plan_images` pads to the same arrays as any other.
        side = MERGE * int((width / MERGE**2) ** 0.5)
        plan = plan_images(np.array([(1, side, side)], np.int32), network.vision, width)
        row = of_edits(data.row_tokens, dtype=np.int32)
        return PairBatch(
            patches=of_images(width, PATCH_VALUES, dtype=np.uint8),
            plan=jax.tree.map(lambda x: of_images(*x.shape[1:], dtype=x.dtype), plan),
            prompts=PackedPrompts(row, row, row, row, of_edits(network.heads.prompts, dtype=np.int32)),
            tied=jax.ShapeDtypeStruct((pairs,), bool),
            ratings=of_edits(2),
        )


class _ShapesScoring(_Scoring, ShapesScoringTask):
    """The same, by its name in the recipes of the shapes world."""


_TASKS = {
    "editing": _Editing,
    "shapes_editing": _ShapesEditing,
    "scoring": _Scoring,
    "shapes_scoring": _ShapesScoring,
}


def _is_here(init: str) -> bool:
    """Whether the recipe's networks are known without published sizes: it describes them, or their model ships."""
    return not init or (SHIPPED / init).is_dir()


def _start(config: ConfigDict, is_here: bool) -> Start:
    base = base_named(config.base_editor)
    if is_here:
        return base.start(config)
    sizes = config.copy_and_resolve_references()
    sizes.init, sizes.schedule = "", {"beta_schedule": "scaled_linear", **config.schedule}
    for name in base.components:
        sizes.network[name] = config.network[name] or NETWORKS[name]
    if "stable-diffusion" in config.init and not config.network.unet:
        sizes.network.unet.in_channels = 4  # it reads no source picture yet
    # The noise process and everything that `start` decides, such as types and LoRA, are those of the recipe.
    start = type("Abstract", (_WithoutTokenizers, base), {}).start(sizes)
    if "language_model" not in start.parts:
        return start
    return start._replace(parts={**start.parts, "language_model": _published_types(start, config)})


def _published_types(start: Start, config: ConfigDict) -> Component:
    """The language model, whose frozen weights keep the type of their files: bfloat16."""
    part = start.parts["language_model"]
    paths = flatten_dict(abstract_params(part.module), sep="/")
    frozen = [path for path in paths if not find_rule(config.trainable, f"language_model/{path}")[1]]
    return part._replace(types=dict.fromkeys(frozen, jnp.bfloat16))


class _WithoutTokenizers:
    """A base editor whose vocabularies have the published sizes."""

    @classmethod
    def described(cls, name: str, settings: dict[str, Any], folders: Any) -> Any:
        return cls.kinds[name].make(settings)

    @classmethod
    def open_tokenizers(cls, folders: Any, modules: Any) -> dict[str, Any]:
        """Tokenizers of other words, none of which is read."""
        if "language_model" not in modules:
            return {"tokenizer": shapes_tokenizer()}
        words = {str(i): i for i in range(modules["language_model"].config.text.vocab_size)}
        added = dict(list(words.items())[-_ADDED:])
        return {"tokenizer": shapes_tokenizer(), "language_tokenizer": LlamaTokenizer(Tokenizer(BPE(words, [])), added)}


def _inputs(base: Base, count: int) -> Inputs | SmartEditInputs:
    """What the networks of a base read of requests, as its `read` gives it."""
    ids, number = partial(jax.ShapeDtypeStruct, dtype=np.int32), partial(jax.ShapeDtypeStruct, dtype=np.float32)
    text = ids((count, base.text_encoder.config.max_position_embeddings))
    reward = {"reward_ids": text, "scores": number((count, 3)), "keep": number((count,))} if base.has_reward else {}
    if not isinstance(base, SmartEdit):
        return Inputs(instruction_ids=text, null_ids=text, **reward)
    side, words = base.vision_encoder.config.image_size, ids((count, TEXT_LENGTH))
    replies = {"targets": words, "is_edit": jax.ShapeDtypeStruct((count,), bool)} if base.learns_replies else {}
    pixels = jax.ShapeDtypeStruct((count, side, side, 3), np.uint8)
    places = {"image_at": ids((count,)), "reply_from": ids((count,)), "reply_at": ids((count, _REPLY))}
    return SmartEditInputs(pixels=pixels, ids=words, **places, **replies, null_ids=text, **reward)


def _scorer(config: ConfigDict, heads: RewardHeadsConfig) -> EditReward:
    """The network of `scoring.initialise.starting_scorer`."""
    text, vision = DecoderConfig(vocab_size=_QWEN_WORDS), QwenVisionConfig()
    if not config.init:
        tokenizer = load_scorer_tokenizer(find_tokenizer(config.base))
        text = DecoderConfig.from_hf({**config.network.text.to_dict(), "vocab_size": tokenizer.reward_id + 1})
        vision = QwenVisionConfig.from_hf(config.network.vision.to_dict())
    network = EditRewardConfig(text=text, vision=vision, positions=config.positions, heads=heads)
    return EditReward(network, dtype=config.compute.dtype, remat=config.compute.remat)


def _struct(*shape: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _repeated(tree: Any, count: int) -> Any:
    """Shapes and types of so many examples, of arrays of one."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), tree)
