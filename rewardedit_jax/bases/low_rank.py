"""Low-rank differences (LoRA) of the components of a base editor, as a recipe describes them."""

import re
from collections.abc import Mapping

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from rewardedit_jax.bases.base import Component
from rewardedit_jax.models.lora import LoRA
from rewardedit_jax.params import abstract_params


def with_lora(parts: Mapping[str, Component], settings: ConfigDict | None) -> dict[str, Component]:
    """The components, with low-rank differences in those that the targets of the settings begin with.

    Raises:
      ValueError: a target names no component, or no dense layer of it; or the component has other ones already.
    """
    targets: dict[str, list[str]] = {}
    for target in settings.targets if settings else ():
        component, _, path = target.partition("/")
        if component not in parts:
            raise ValueError(f"lora.targets: {target!r}: expected one that begins with {', '.join(parts)} and a slash")
        targets.setdefault(component, []).append(path)
    return {
        name: _adapted(name, part, LoRA(settings.rank, settings.alpha, tuple(targets[name]), settings.dropout))
        if name in targets
        else part
        for name, part in parts.items()
    }


def _adapted(name: str, part: Component, lora: LoRA) -> Component:
    if part.module.lora is not None:
        raise ValueError(f"lora: the {name} that training starts from has {part.module.lora} already: leave lora unset")
    module = part.module.clone(lora=lora)
    paths = flatten_dict(abstract_params(module), sep="/")
    layers = [path.removesuffix("/lora_a") for path in paths if path.endswith("/lora_a")]
    if idle := [target for target in lora.targets if not any(re.fullmatch(target, layer) for layer in layers)]:
        raise ValueError(f"lora.targets: {name}/{idle[0]}: expected the path of a dense layer, which it does not match")
    return part._replace(module=module, origin=part.origin or part.module)
