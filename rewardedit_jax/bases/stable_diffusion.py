"""Pipeline directories and recipes of base editors with the networks of Stable Diffusion: U-Net, VAE, text encoder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from rewardedit_jax.bases.base import Component, Start, open_component, read_process, recipe_process
from rewardedit_jax.bases.low_rank import with_lora
from rewardedit_jax.data.clip_tokenizer import CLIPTokenizer, load_clip_tokenizer
from rewardedit_jax.diffusion.process import process_from_config
from rewardedit_jax.models import clip, unet, vae
from rewardedit_jax.models.clip import CLIPTextConfig
from rewardedit_jax.models.reward_condition import RewardConditionConfig
from rewardedit_jax.models.vae import AutoencoderKL
from rewardedit_jax.params import Params, Rules, find_rule
from rewardedit_jax.training.recipe import Section
from rewardedit_jax.training.recipe_check import check_network, check_section
from rewardedit_jax.weights.files import write_json
from rewardedit_jax.weights.hub import find_model
from rewardedit_jax.weights.kinds import CLIP_TEXT, UNET, VAE, NetworkKind
from rewardedit_jax.weights.pipeline_index import STABLE_DIFFUSION, model_index
from rewardedit_jax.weights.pretrained import PretrainedNetwork, write_network
from rewardedit_jax.weights.saving import replace_model
from rewardedit_jax.weights.stable_diffusion import widen_conv_in
from rewardedit_jax.weights.tokenizer_files import save_tokenizer

_MOST_PADDING = 256  # rows of an embedding matrix are rounded up to a multiple of this, or of less
KINDS = {"unet": UNET, "vae": VAE, "text_encoder": CLIP_TEXT}


def below(component: str, rules: Rules) -> tuple[tuple[str, PartitionSpec], ...]:
    """The partition rules of a network as those of a component of an editor."""
    return tuple((f"{component}/{path}", spec) for path, spec in rules)


PARTITION_RULES = (
    *below("unet", unet.PARTITION_RULES),
    *below("vae", vae.PARTITION_RULES),
    *below("text_encoder", clip.TEXT_PARTITION_RULES),
)


class NetworkSettings(Section):
    """Networks that are trained from scratch, by fields of their config.json; {}: the network of `init`."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]  # without its vocabulary, which is the tokenizer's
    tokenizer: str  # a model that has it; "": that of `init`

    def __post_init__(self):
        check_networks(self, KINDS)


def check_networks(section: Section, kinds: Mapping[str, NetworkKind]) -> None:
    """Checks the networks that the section `network` of a recipe describes, by their kinds."""
    for name, kind in kinds.items():
        if described := getattr(section, name):
            check_network(kind.config, described, f"network.{name}", kind.settings)


class StableDiffusionFiles:
    """The file methods of a `bases.base.Base` whose fields are unet, vae, text_encoder, process and tokenizer.

    A base with more networks, tokenizers and settings has more `kinds`, `network_settings`, `open_tokenizers`,
    `settings` and `read_settings`.
    """

    # Components that compute in float32 whatever is asked for: in half precision, errors of a VAE are visible.
    exact: ClassVar[tuple[str, ...]] = ("vae",)
    # Components too large to keep in float32 for nothing: an editor that is loaded has them in the type of computation.
    large: ClassVar[tuple[str, ...]] = ()

    pipelines: ClassVar[tuple[str, ...]]
    kinds: ClassVar[Mapping[str, NetworkKind]] = KINDS  # by the component's name
    components: ClassVar[tuple[str, ...]] = tuple(KINDS)
    partition_rules: ClassVar[tuple[tuple[str, PartitionSpec], ...]] = PARTITION_RULES
    network_settings: ClassVar[type[Section]] = NetworkSettings
    index: ClassVar[Mapping[str, list[str]]] = STABLE_DIFFUSION  # of model_index.json

    @classmethod
    def types(cls, name: str, dtype: DTypeLike, training: bool = False) -> dict[str, DTypeLike]:
        """The types that a component computes in and that its parameters have, as fields of its module."""
        dtype = jnp.float32 if name in cls.exact else dtype
        return {"dtype": dtype, "param_dtype": dtype if name in cls.large and not training else jnp.float32}

    @classmethod
    def open_tokenizers(cls, folders: Callable[[str], Path], modules: Mapping[str, nn.Module]) -> dict[str, Any]:
        """The tokenizers by their fields. Raises ValueError if ids of one are not those of its network.

        Args:
          folders: name of a tokenizer → its folder.
        """
        tokenizer = load_clip_tokenizer(folders("tokenizer"))
        _check_tokenizer(tokenizer, modules["text_encoder"].config, folders("tokenizer"))
        return {"tokenizer": tokenizer}

    def save_tokenizers(self, directory: Path) -> None:
        """Writes the tokenizers into an empty pipeline directory."""
        save_tokenizer(self.tokenizer, directory / "tokenizer")
        # vocab.json and merges.txt, which transformers 4 reads in place of tokenizer.json.
        self.tokenizer.backend_tokenizer.model.save(str(directory / "tokenizer"))

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def read_settings(cls, directory: Path) -> dict[str, Any]:
        """`settings` of a pipeline directory, by their fields."""
        return {}

    @classmethod
    def open(cls, directory: Path, dtype: DTypeLike, allow_nonfinite: bool = False) -> Start:
        """The editor in a diffusers pipeline directory; `dtype` is that of the U-Net and the text encoder."""
        opened = {
            name: open_component(directory, name, kind, **cls.types(name, dtype), allow_nonfinite=allow_nonfinite)
            for name, kind in cls.kinds.items()
        }
        modules = {name: network.module for name, network in opened.items()}
        tokenizers = cls.open_tokenizers(lambda name: directory / name, modules)
        base = cls(**modules, process=read_process(directory), **tokenizers, **cls.read_settings(directory))
        return Start(base, {name: Component(network.module, read=network.read) for name, network in opened.items()})

    @classmethod
    def check_recipe(cls, recipe: Any) -> None:
        if recipe.reply_weight and "language_model" not in cls.components:
            raise ValueError(f"reply_weight={recipe.reply_weight}: expected 0, as {cls.name} has no language model")
        check_section(recipe.network, cls.network_settings, "network")
        # A recipe that names a `beta_schedule` describes all of the noise process (`recipe_process`).
        if "beta_schedule" in recipe.schedule:
            try:
                process_from_config(recipe.schedule)
            except ValueError as error:
                raise ValueError(f"schedule: {error}") from error
        described = {f"network.{name}": value for name, value in recipe.network.items()}
        described["schedule.beta_schedule"] = recipe.schedule.get("beta_schedule")
        if not recipe.init and (lacking := [name for name, value in described.items() if not value]):
            raise ValueError(f"init='': expected a model, because the recipe does not describe {', '.join(lacking)}")

    @classmethod
    def start(cls, config: ConfigDict) -> Start:
        """The editor that a recipe trains.

        Component by component: what `config.network` describes starts from scratch, everything else is read from the
        pipeline `config.init`. The U-Net is then brought to what the recipe trains: the 4-channel input of Stable
        Diffusion is widened for the condition latents, and reward modules are added if it has none.
        """
        read_from_init = [name for name in cls.components if not config.network[name]]
        directory = find_model(config.init, read_from_init) if config.init else None
        folders = partial(_tokenizer_folder, config.network, directory, cls.components)
        opened = {name: open_component(directory, name, cls.kinds[name]) for name in read_from_init}
        parts = {
            name: Component(
                opened[name].module if name in opened else cls.described(name, config.network[name].to_dict(), folders)
            )
            for name in cls.components
        }
        parts["unet"] = _adapted_unet(parts["unet"], parts["vae"].module, config)
        _check_conv_in(parts["unet"], config.trainable)
        parts = with_lora(parts, config.get("lora"))
        for name, part in parts.items():
            network = opened.get(name)
            frozen = _frozen_types(name, network, config.trainable) if network else {}
            computing = cls.types(name, config.compute.dtype, training=True)
            if hasattr(part.module, "remat"):  # networks that are deep enough to have the setting
                computing["remat"] = config.compute.remat
            parts[name] = _computing(part, computing, network, frozen)
        modules = {name: part.module for name, part in parts.items()}
        tokenizers = cls.open_tokenizers(folders, modules)
        settings = cls.read_settings(directory) if directory else {}
        return Start(cls(**modules, process=recipe_process(config, directory), **tokenizers, **settings), parts)

    @classmethod
    def described(cls, name: str, settings: dict[str, Any], folders: Callable[[str], Path]) -> nn.Module:
        """The network that a recipe describes; the text encoder's vocabulary is that of the tokenizer."""
        if name == "text_encoder":
            tokenizer = load_clip_tokenizer(folders("tokenizer"))
            settings |= {
                "vocab_size": len(tokenizer),
                "max_position_embeddings": tokenizer.model_max_length,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            }
        return cls.kinds[name].make(settings)

    def save(self, params: Params, directory: Path) -> None:
        """Write a pipeline directory that PyTorch diffusers loads too; it replaces the model that is there."""
        scheduler = self.process.to_config()
        with replace_model(directory) as new:
            for name in self.components:
                write_network(getattr(self, name), params[name], new / name)
            self.save_tokenizers(new)
            write_json(scheduler, new / "scheduler" / "scheduler_config.json")
            index = model_index(self.pipelines[0], self.index, scheduler["_class_name"])
            write_json({**index, **self.settings}, new / "model_index.json")


def _frozen_types(component: str, opened: PretrainedNetwork, trainable: Rules[bool]) -> dict[str, np.dtype]:
    """Path → type of the parameters that do not train and whose files are narrower than float32.

    To keep these in the type of their file changes no bit of what is computed: layers widen them to float32, or round
    them to the type of computation, when they use them. An export has the bits that were read. Rounding a float32 file
    as well would save more memory, but the exported model would be another one; launch/convert.py rounds it on request.
    """
    stored = opened.stored_types()
    rules = {path: find_rule(trainable, f"{component}/{path}") for path in stored}
    return {path: stored[path] for path, rule in rules.items() if rule and not rule[1] and stored[path].itemsize < 4}


def _computing(
    part: Component, settings: Mapping[str, Any], opened: PretrainedNetwork | None, frozen: Mapping[str, np.dtype]
) -> Component:
    """The component as it computes in a training.

    Args:
      settings: fields of its module, such as the types.
      opened: what it is read from; None: it is drawn.
      frozen: path → type of the parameters that have another type than the others.
    """
    return part._replace(
        module=part.module.clone(**settings),
        origin=None if part.origin is None else part.origin.clone(**settings),
        read=None if opened is None else replace(opened, module=opened.module.clone(**settings), types=frozen).read,
        types=frozen,
    )


def _tokenizer_folder(network: ConfigDict, init: Path | None, components: Sequence[str], name: str) -> Path:
    """The tokenizer folder of the pipeline that the recipe names for it, else of the one that training starts from."""
    return (find_model(network[name], components) if network[name] else init) / name


def _check_tokenizer(tokenizer: CLIPTokenizer, text: CLIPTextConfig, folder: Path) -> None:
    """Raises ValueError if the ids of the tokenizer are not those of the text encoder."""
    rows, tokens, length = text.vocab_size, len(tokenizer), tokenizer.model_max_length
    if not rows - _MOST_PADDING < tokens <= rows:
        raise ValueError(
            f"the tokenizer in {folder} has {tokens} tokens, the text encoder has embeddings of {rows}: its files are "
            "damaged, or belong to another model. Copy the tokenizer of the text encoder there."
        )
    if length > text.max_position_embeddings:
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: model_max_length={length}: expected at most the text encoder's "
            f"max_position_embeddings={text.max_position_embeddings}."
        )


def _adapted_unet(part: Component, autoencoder: AutoencoderKL, config: ConfigDict) -> Component:
    """The U-Net with condition latents in its input, and with reward modules if the recipe names a layout."""
    network, both = part.module.config, 2 * autoencoder.config.latent_channels
    if config.reward.layout and network.reward is None:
        network = replace(network, reward=recipe_reward(config.reward))
    module = part.module.clone(config=replace(network, in_channels=both))
    return part._replace(module=module, origin=part.module, fit=lambda params: widen_conv_in(params, both))


def _check_conv_in(part: Component, trainable: Rules[bool]) -> None:
    """Raises ValueError if the U-Net's input is widened, with weights that start at zero, but does not train."""
    if part.origin.config.in_channels < part.module.config.in_channels:
        rule = find_rule(trainable, "unet/conv_in/kernel")
        if rule is not None and not rule[1]:
            raise ValueError(
                f"trainable has {rule!r}, but the U-Net that training starts from does not read the source yet: "
                "expected unet/conv_in to train. Add ('unet/conv_in/.*', True) before it, or start from an "
                "InstructPix2Pix."
            )


def recipe_reward(reward: ConfigDict) -> RewardConditionConfig:
    """The reward modules of a recipe: their layout, what they read and where they act."""
    return RewardConditionConfig(
        layout=reward.layout,
        sources=tuple(reward.sources),
        paths=tuple(reward.paths),
        perspectives=tuple(reward.perspectives),
    )
