"""Parameters that no checkpoint has: networks from scratch, and parts that are added to a pretrained one."""

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray

from rewardedit_jax.weights.engine import Params
from rewardedit_jax.weights.pretrained import abstract_params


def random_params(module: nn.Module, rng: PRNGKeyArray, known: Params | None = None) -> Params:
    """Parameters of a network: `known` ones as they are, the others drawn. Only what is missing is computed."""
    kept = flatten_dict(known or {})
    missing = [path for path in flatten_dict(abstract_params(module)) if path not in kept]

    def draw() -> dict[tuple[str, ...], jax.Array]:
        drawn = flatten_dict(module.init(rng, *module.example_inputs())["params"])
        return {path: drawn[path] for path in missing}

    # Drawing takes no time, compiling it does: half as long without the compiler's full effort.
    quickly = jax.jit(draw, compiler_options={"xla_backend_optimization_level": 0})
    return unflatten_dict({**kept, **(quickly() if missing else {})})
