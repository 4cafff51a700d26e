"""Metrics of pixels: L1, L2, PSNR and SSIM of pictures of equal size, in batches of a size.

L1 and L2 are those of MagicBrush's `evaluation/image_eval.py`: torch's `L1Loss` and `MSELoss` on RGB in [0, 1], that is
the mean over all pixels and channels. So L2 is the mean squared difference, without a root.
"""

import importlib.util

import numpy as np
from jaxtyping import Float, UInt8

Pictures = UInt8[np.ndarray, "b h w 3"]
Values = Float[np.ndarray, " b"]

_LEVELS = 255  # pixels are 0..255
_WINDOW = 11  # pixels, of SSIM's Gaussian
_NUMBERS_OF_A_PICTURE = (1, 2, 3)


def l1(edited: Pictures, reference: Pictures) -> Values:
    """Mean absolute difference, 0..1."""
    return np.abs(_difference(edited, reference)).mean(_NUMBERS_OF_A_PICTURE)


def l2(edited: Pictures, reference: Pictures) -> Values:
    """Mean squared difference, 0..1."""
    return np.square(_difference(edited, reference)).mean(_NUMBERS_OF_A_PICTURE)


def psnr(edited: Pictures, reference: Pictures) -> Values:
    """Peak signal-to-noise ratio in dB, -10 log10(L2); infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(l2(edited, reference))


def _difference(edited: Pictures, reference: Pictures) -> Float[np.ndarray, "b h w 3"]:
    return (edited.astype(np.float64) - reference) / _LEVELS


def ssim(edited: Pictures, reference: Pictures) -> Values:
    """Structural similarity, at most 1 (Wang et al. 2004), by scikit-image.

    Settings: the paper's Gaussian window (sigma 1.5, 11×11) and population covariance, K1 0.01, K2 0.03, data range
    255, the mean over the three channels. Without these settings, scikit-image takes 7×7 windows of equal weights.
    """
    from skimage.metrics import structural_similarity

    if min(edited.shape[1:3]) < _WINDOW:
        raise ValueError(f"pictures of {_size(edited)}: SSIM needs sides of {_WINDOW} pixels at least")
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": _LEVELS}
    pairs = zip(edited, reference, strict=True)
    return np.asarray([structural_similarity(a, b, channel_axis=-1, **settings) for a, b in pairs], np.float64)


def require_skimage() -> None:
    """Raises an ImportError that names the extra, if scikit-image is missing. For use before a long computation."""
    if not importlib.util.find_spec("skimage"):
        raise ImportError(
            "scikit-image is missing: SSIM needs the extra 'metrics', pip install 'rewardedit_jax[metrics]'"
        )


def _size(pictures: Pictures) -> str:
    return f"{pictures.shape[2]}×{pictures.shape[1]}"
