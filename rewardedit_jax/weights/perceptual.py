"""Weight tables of the networks behind metrics: LPIPS on torchvision's networks, and Inception of pytorch-fid."""

from rewardedit_jax.weights.engine import COPY, POINTWISE, Rule, WeightTable, conv, linear

_SCALING = r"scaling_layer\.(shift|scale)"  # buffers of the lpips package, which are constants here
_COUNTERS = r".*\.num_batches_tracked"
_CLASSIFIERS = r"(classifier|fc|AuxLogits)\..*"


# torchvision's file of a network together with the file of its heads in the lpips package, version 0.1.
LPIPS_TABLE = WeightTable(
    (
        # A network and its heads in one file have the prefix "net.".
        *conv("features.{i}", "net/features_{i}", aliases=("net.features.{i}",)),
        *conv(
            "features.{i}.{part:squeeze|expand1x1|expand3x3}",
            "net/features_{i}/{part}",
            aliases=("net.features.{i}.{part}",),
        ),
        # Element 0 of a head is dropout, which has no parameters.
        *linear("lin{i}.model.1", "lin{i}", transform=POINTWISE),
    ),
    (_SCALING, _CLASSIFIERS),
)

# Layers lie in blocks, or directly in the network.
_BATCH_NORM = (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var"))
_LAYERS = (
    ("{layer:Conv2d_[0-9a-z_]+}", "{layer}"),
    ("{block:Mixed_[0-9][a-e]}.{layer:branch[0-9a-z_]+}", "{block}/{layer}"),
)
INCEPTION_TABLE = WeightTable(
    tuple(
        rule
        for torch, path in _LAYERS
        for rule in (
            *conv(f"{torch}.conv", f"{path}/conv"),
            *(Rule(f"{torch}.bn.{theirs}", f"{path}/bn/{ours}", COPY) for theirs, ours in _BATCH_NORM),
        )
    ),
    (_COUNTERS, _CLASSIFIERS),
)
