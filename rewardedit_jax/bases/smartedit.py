"""SmartEdit, plain or reward-conditioned: InstructPix2Pix whose instructions are read by a language model that sees.

Huang et al., "SmartEdit" (CVPR 2024, arXiv:2312.06739). The source goes through CLIP's image tower, and into LLaVA in
place of a token of the conversation. The states of the reply's image tokens go through the Q-Former, and the
Bidirectional Interaction Module mixes the result with the features of the source. It gives the context c_T for
cross-attention, and a residual v' that is added to the U-Net's first feature map.

Training drops instruction and source as InstructPix2Pix does; v' is never dropped, and is in all guidance branches. The
empty instruction is the one of Stable Diffusion's text encoder, which also reads feedback texts. Reward-SmartEdit
(arXiv:2411.04713, section 6.1) has no published code: the reward encoder follows the sum with v', as the paper feeds it
the feature map of the base editor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray, UInt8, UInt32
from ml_collections import ConfigDict
from msgspec import Meta, Struct
from PIL import Image

from rewardedit_jax.bases.base import Keep, Precomputed, ReportCut, Start, each_in_turn, in_turns
from rewardedit_jax.bases.instruct_pix2pix import Conditions, InstructPix2Pix, Moments, RequestStates, RewardInputs
from rewardedit_jax.bases.reply_objective import reply_loss, with_frozen_words
from rewardedit_jax.bases.sampled_reply import with_sampled_replies
from rewardedit_jax.bases.stable_diffusion import KINDS, PARTITION_RULES, below, check_networks
from rewardedit_jax.data.llama_tokenizer import LlamaTokenizer, load_language_tokenizer
from rewardedit_jax.data.smartedit_prompts import PAIR, image_tokens, language_targets, read_conversations
from rewardedit_jax.models import clip_vision, interaction, llava, qformer
from rewardedit_jax.models.clip_vision import CLIPVisionModel, normalise_pixels
from rewardedit_jax.models.interaction import Interaction
from rewardedit_jax.models.llava import Llava
from rewardedit_jax.models.qformer import QFormer
from rewardedit_jax.params import Params
from rewardedit_jax.reward import Reward
from rewardedit_jax.training.recipe import Section
from rewardedit_jax.weights.files import read_json
from rewardedit_jax.weights.kinds import CLIP_VISION, INTERACTION, LLAVA, QFORMER, NetworkKind
from rewardedit_jax.weights.pipeline_index import SMARTEDIT, SMARTEDIT_PIPELINE

_READER_KINDS = {
    "vision_encoder": CLIP_VISION,
    "language_model": LLAVA,
    "qformer": QFORMER,
    "interaction": INTERACTION,
}


class SmartEditSettings(Section):
    """Networks that are trained from scratch, by fields of their config.json; {}: the network of `init`."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    vision_encoder: dict[str, Any]
    language_model: dict[str, Any]  # without its vocabulary, which is the tokenizer's
    qformer: dict[str, Any]
    interaction: dict[str, Any]
    tokenizer: str  # a model that has it; "": that of `init`
    language_tokenizer: str

    def __post_init__(self):
        check_networks(self, KINDS | _READER_KINDS)


@flax.struct.dataclass(kw_only=True)
class Inputs(RewardInputs):
    """What the networks read of a batch of requests, besides the source images at the size of the latents."""

    pixels: Any  # uint8[b, H, W, 3]: the source at the size of the image tower, whatever its aspect ratio
    ids: Any  # int32[b, l]: the conversation
    image_at: Any  # int32[b]: index of the token that the source replaces
    reply_from: Any  # int32[b]: index of the reply's first token, where a reply of the model's own begins
    reply_at: Any  # int32[b, k]: indices of the reply's image tokens
    # For the language model's own objective; else None:
    targets: Any = None  # int32[b, l]: the ids of the reply; NO_TARGET elsewhere
    is_edit: Any = None  # bool[b]: False where the instruction was too long, and has been emptied


@flax.struct.dataclass
class SourceStates:
    """Sources after the networks. Instructions are among them, as they are read together with the source."""

    latents: Any  # float32[b, h, w, c]
    context: Any  # float32[b, q, d]
    residual: Any  # float32[b, g, g, c]: v' on the grid of the image tower


class _Index(Struct):
    """Settings in model_index.json."""

    reply_temperature: Annotated[float, Meta(ge=0)] | None = None


class ReadSource(NamedTuple):
    """Sources and instructions after the networks that read them."""

    context: Float[Array, "b q d"]
    residual: Float[Array, "b g g c"]  # on the grid of the image tower
    hidden: Float[Array, "b s d"]  # states of the language model


@dataclass(frozen=True)
class SmartEdit(InstructPix2Pix):
    """The base editor; a `bases.base.Base`."""

    name: ClassVar[str] = "smartedit"
    pipelines: ClassVar[tuple[str, ...]] = (SMARTEDIT_PIPELINE,)
    kinds: ClassVar[Mapping[str, NetworkKind]] = KINDS | _READER_KINDS
    components: ClassVar[tuple[str, ...]] = tuple(kinds)
    precomputing: ClassVar[tuple[str, ...]] = tuple(name for name in components if name != "unet")
    # Q-Former and interaction module are small, and in float32 in published training and inference.
    exact: ClassVar[tuple[str, ...]] = ("vae", "qformer", "interaction")
    large: ClassVar[tuple[str, ...]] = ("vision_encoder", "language_model")
    network_settings: ClassVar[type[Section]] = SmartEditSettings
    partition_rules: ClassVar[tuple[tuple[str, PartitionSpec], ...]] = (
        *PARTITION_RULES,
        *below("vision_encoder", clip_vision.PARTITION_RULES),
        *below("language_model", llava.PARTITION_RULES),
        *below("qformer", qformer.PARTITION_RULES),
        *below("interaction", interaction.PARTITION_RULES),
    )
    index: ClassVar[Mapping[str, list[str]]] = SMARTEDIT

    vision_encoder: CLIPVisionModel
    language_model: Llava
    qformer: QFormer
    interaction: Interaction
    language_tokenizer: LlamaTokenizer = field(compare=False, repr=False)
    learns_replies: bool = False  # whether training has the language model's own objective too
    # Of the replies that the language model gives when it edits: 0 takes the likeliest token, 0.7 is that of published
    # inference. None: the reply is given, as in training. Not compared: the programs of networks do not depend on it.
    reply_temperature: float | None = field(default=None, compare=False)

    def __post_init__(self):
        """Raises ValueError if two networks do not fit: one reads what the other computes."""
        of = {name: getattr(self, name).config for name in self.components}
        # Examples whose instruction is dropped have the text encoder's states in place of the Q-Former's.
        _check_equal(of, "qformer.num_queries", "text_encoder.max_position_embeddings")
        _check_equal(of, "qformer.encoder_hidden_size", "language_model.text.hidden_size")
        _check_equal(of, "qformer.hidden_size", "interaction.context_size")
        _check_equal(of, "language_model.mm_hidden_size", "vision_encoder.hidden_size")
        _check_equal(of, "interaction.hidden_size", "vision_encoder.hidden_size")
        _check_equal(of, "interaction.context_size", "unet.cross_attention_dim")
        _check_equal(of, "text_encoder.hidden_size", "unet.cross_attention_dim")
        _check_equal(of, "interaction.residual_size", "unet.block_out_channels.0")

    # On the host

    def read(
        self,
        sources: Sequence[UInt8[np.ndarray, "H W 3"]],
        instructions: Sequence[str],
        rewards: Sequence[Reward | None],
        report_cut: ReportCut,
    ) -> Inputs:
        """Conversations, sources and scores.

        Raises:
          ValueError: an instruction contains a token of the conversation.
        """
        tokenizer, learns = self.language_tokenizer, self.learns_replies
        conversations = read_conversations(tokenizer, instructions, tokenizer.length, report_cut, empty_overlong=learns)
        side = self.vision_encoder.config.image_size
        pixels = np.stack([_squashed(source, side) for source in sources])
        places = {name: getattr(conversations, name) for name in ("ids", "image_at", "reply_from", "reply_at")}
        replies = {"targets": language_targets(conversations), "is_edit": conversations.editing} if learns else {}
        return Inputs(pixels=pixels, **places, **replies, **self._read_rewards(rewards, report_cut))

    def reply(
        self, params: Params, inputs: Inputs, instructions: Sequence[str], seeds: UInt32[np.ndarray, " b"]
    ) -> Inputs:
        if self.reply_temperature is None:
            return inputs
        return with_sampled_replies(self, params, inputs, instructions, seeds)

    def reading(self) -> dict[str, Any]:
        return {**super().reading(), "language tokenizer": self.language_tokenizer.digest(), "template": list(PAIR)}

    # Traced

    def precompute(
        self,
        params: Params,
        source: Float[Array, "b H W 3"],
        edited: Float[Array, "b H W 3"],
        inputs: Inputs,
        rng: PRNGKeyArray | None = None,
    ) -> Precomputed:
        edited, source = each_in_turn(self.encode(params, in_turns(edited, source)))
        params = self._with_frozen_words(params)
        context, residual, hidden = self._read_sources(params, inputs, rng if self.learns_replies else None)
        reward = self._reward_states(inputs, self._text_states(params, inputs.reward_ids)) if self.has_reward else None
        return Precomputed(
            Moments.of(edited),
            SourceStates(source.mode, context, residual),
            RequestStates(None, reward),
            self._null_states(params, inputs),
            self._reply_loss(params, inputs, hidden),
            inputs.is_edit,
        )

    def condition(self, params: Params, examples: Precomputed, keep: Keep) -> Conditions:
        states = examples.source
        plain = examples.replace(source=states.latents, request=examples.request.replace(instruction=states.context))
        residual = _resized(states.residual, states.latents.shape[1:3])
        return super().condition(params, plain, keep).replace(residual=residual)

    def _read_instructions(
        self, params: Params, inputs: Inputs, size: tuple[int, int]
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b h w c"]]:
        context, residual, _ = self._read_sources(params, inputs)
        return context, _resized(residual, size)

    def see(self, params: Params, pixels: UInt8[Array, "b H W 3"]) -> Float[Array, "b v c"]:
        """The features of sources that the language model reads; of `params`, the image tower's are enough."""
        states = self.vision_encoder.apply({"params": params["vision_encoder"]}, normalise_pixels(pixels))
        return states.hidden[self.language_model.config.mm_vision_select_layer][:, 1:]  # without the class token

    def _read_sources(self, params: Params, inputs: Inputs, rng: PRNGKeyArray | None = None) -> ReadSource:
        features = self.see(params, inputs.pixels)
        # No mask: padding is behind the reply, which attends to what is before it.
        hidden = self.language_model.apply(
            {"params": params["language_model"]},
            inputs.ids,
            features,
            inputs.image_at,
            rngs=None if rng is None else {"lora": rng},
        )
        # The reply is behind the image, which has taken the place of one token.
        at = inputs.reply_at + features.shape[1] - 1
        spoken = jnp.take_along_axis(hidden, at[..., None], axis=1).astype(jnp.float32)
        queries = self.qformer.apply(
            {"params": params["qformer"]},
            spoken,
            deterministic=rng is None,
            rngs=None if rng is None else {"dropout": rng},
        )
        interacted = self.interaction.apply({"params": params["interaction"]}, queries, features.astype(jnp.float32))
        return ReadSource(*interacted, hidden)

    def _with_frozen_words(self, params: Params) -> Params:
        if self.language_model.lora is None or not self.learns_replies:
            return params
        known = self.language_tokenizer.vocabulary_size - len(self.language_tokenizer.added)
        return {**params, "language_model": with_frozen_words(params["language_model"], known)}

    def _reply_loss(self, params: Params, inputs: Inputs, hidden: Float[Array, "b s d"]) -> Float[Array, " b"] | None:
        if not self.learns_replies:
            return None
        return reply_loss(self.language_model, params["language_model"], inputs.targets, hidden)

    # Files

    @property
    def settings(self) -> dict[str, Any]:
        return {} if self.reply_temperature is None else {"reply_temperature": self.reply_temperature}

    @classmethod
    def read_settings(cls, directory: Path) -> dict[str, Any]:
        return {"reply_temperature": read_json(directory / "model_index.json", _Index).reply_temperature}

    @classmethod
    def start(cls, config: ConfigDict) -> Start:
        start = super().start(config)
        return start._replace(base=replace(start.base, learns_replies=config.get("reply_weight", 0.0) > 0))

    @classmethod
    def described(cls, name: str, settings: dict[str, Any], folders: Callable[[str], Path]) -> nn.Module:
        if name == "vision_encoder":
            settings |= {"architectures": ["CLIPVisionModel"]}  # without a projection, which nothing would read
        if name == "language_model":
            settings |= {"vocab_size": load_language_tokenizer(folders("language_tokenizer")).vocabulary_size}
        return super().described(name, settings, folders)

    @classmethod
    def open_tokenizers(cls, folders: Callable[[str], Path], modules: Mapping[str, nn.Module]) -> dict[str, Any]:
        folder = folders("language_tokenizer")
        tokenizer = load_language_tokenizer(folder)
        rows, tokens = modules["language_model"].config.text.vocab_size, tokenizer.vocabulary_size
        if rows != tokens:
            raise ValueError(
                f"the tokenizer in {folder} has {tokens} tokens, the language model has embeddings of {rows}: they "
                "belong to different models. Convert the published model again with launch/convert.py."
            )
        image_tokens(tokenizer)  # refuses a tokenizer without them
        return super().open_tokenizers(folders, modules) | {"language_tokenizer": tokenizer}

    def save_tokenizers(self, directory: Path) -> None:
        super().save_tokenizers(directory)
        self.language_tokenizer.save(directory / "language_tokenizer")


def _check_equal(configs: Mapping[str, Any], *places: str) -> None:
    """Raises ValueError if two settings differ. A place is `network.field`, and so on with fields and indices of it."""
    one, other = (reduce(_entry, path, configs[name]) for name, *path in (place.split(".") for place in places))
    if one != other:
        raise ValueError(f"{places[0]}={one} and {places[1]}={other}: expected the same number.")


def _entry(value: Any, name: str) -> Any:
    return value[int(name)] if name.isdecimal() else getattr(value, name)


def _squashed(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The image as a square, its aspect ratio not kept, by Pillow's bicubic filter as in SmartEdit's code."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _resized(residual: Float[Array, "b g g c"], size: tuple[int, int]) -> Float[Array, "b h w c"]:
    """v' for latents of a size. The image tower has seen the whole image as a square, so the grid is stretched."""
    shape = (len(residual), *size, residual.shape[-1])
    return jax.image.resize(residual, shape, "bilinear", antialias=False)
