"""The settings that CLIP's two towers have in common."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from rewardedit_jax.models.encoder import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class TowerConfig(EncoderConfig):
    """Sizes of a tower, under Hugging Face's names.

    The defaults are Hugging Face's, as its config.json files may omit default values.
    """

    _section: ClassVar[str]  # in a whole CLIP's config.json
    _architecture: ClassVar[str]  # the class of transformers that has this tower alone

    intermediate_size: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int | None = 512  # width of the space that images and texts share; None: without a projection

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "TowerConfig":
        """The config in a Hugging Face config.json of a tower or of a whole CLIP model.

        Raises ValueError naming an unsupported setting.
        """
        if cls._section in config:
            # transformers projects both towers to the top-level projection_dim, whatever the sections say.
            config = {**config[cls._section], "projection_dim": config.get("projection_dim", cls.projection_dim)}
        if config.get("attention_dropout"):
            raise ValueError(f"attention_dropout={config['attention_dropout']}: only 0 is supported")
        return super().from_hf(config)

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads."""
        settings = {name: value for name, value in asdict(self).items() if value is not None}
        return {"architectures": [self._architecture], "model_type": self._model_type, **settings}
