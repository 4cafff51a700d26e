"""Finding and opening the published files that SmartEdit is converted from.

SmartEdit's own files are four. They lack the image tower, the autoencoder, the CLIP text encoder, and in the two
matrices of the vocabulary the rows of LLaVA, which the published code takes from LLaVA at every load.
"""

from pathlib import Path
from typing import Any, NamedTuple

from rewardedit_jax.data.llama_tokenizer import LlamaTokenizer, load_language_tokenizer
from rewardedit_jax.weights.files import TensorFiles, WeightFileError, read_json, read_weights
from rewardedit_jax.weights.hub import ModelNotFound, find_files, find_model
from rewardedit_jax.weights.smartedit_checks import (
    LLM_PREFIX,
    OWN_TOKENS,
    PROJECTOR,
    Adapter,
    check_interaction,
    check_llava,
    check_sizes,
)
from rewardedit_jax.weights.smartedit_configs import FileShapes, interaction_config, qformer_config

# Argument → where its files are published.
WHERE = {
    "smartedit": "TencentARC/SmartEdit-7B and TencentARC/SmartEdit-13B on the Hugging Face hub",
    "llava": "mmaaz60/LLaVA-7B-Lightening-v1-1 on the Hugging Face hub (7B, merged), and for 13B as "
    "liuhaotian/LLaVA-13b-delta-v1-1, to be applied to LLaMA by LLaVA's script",
    "vision": "openai/clip-vit-large-patch14 on the Hugging Face hub",
    "base": "stable-diffusion-v1-5/stable-diffusion-v1-5 on the Hugging Face hub",
}
# Of SmartEdit's files, without suffix. The numbers are training steps: those of the published files are 15000.
_FILES = {
    "language": "LLM-*/adapter_model",
    "embeddings": "embeddings_qformer/checkpoint-*_embeddings_qformer",
    "unet": "unet-*/adapter_model",
    "interaction": "modulate-*/adapter_model",
}
_SUFFIXES = (".safetensors", ".bin")  # in order of preference
_ADAPTER = "adapter_config.json"
_TOKENIZER = "tokenizer.model"


class Sources(NamedTuple):
    """The opened files of SmartEdit and LLaVA, of which headers have been read and sizes checked."""

    language: TensorFiles
    embeddings: TensorFiles
    unet: TensorFiles
    interaction: TensorFiles
    files: dict[str, Path]  # of the four above, by their names
    adapter: Adapter
    qformer_config: dict[str, Any]
    interaction_config: dict[str, Any]
    llava: TensorFiles
    llava_folder: Path
    words: int  # rows of the vocabulary that are LLaVA's; those of SmartEdit follow
    tokenizer: LlamaTokenizer  # with the tokens of SmartEdit's rows in place of LLaVA's


def find_source(argument: str, model: str, components: tuple[str, ...] = (), weights: bool = True) -> Path:
    """As `find_model`; the error says where the files of the argument are published."""
    try:
        return find_model(model, components, weights)
    except ModelNotFound as error:
        raise ModelNotFound(f"--{argument}: {error} Published: {WHERE[argument]}.") from error


def open_sources(smartedit: str, llava: str) -> Sources:
    """The files of SmartEdit and LLaVA, in local directories or on the hub.

    Raises:
      ModelNotFound: files are missing; says which, and where they are published.
      UnsafePickle: a file of PyTorch with anything else than tensors.
      WeightFileError: damaged files, or such as do not belong together.
    """
    files, adapter = _find_smartedit(smartedit)
    folder = _find_llava(llava)
    theirs = read_weights(folder)
    settings, words = check_llava(folder, theirs)
    opened = {part: TensorFiles([file]) for part, file in files.items()}
    shapes = {part: FileShapes(files[part], tensors.shapes) for part, tensors in opened.items()}
    qformer, interaction = qformer_config(shapes["embeddings"]), interaction_config(shapes["interaction"])
    check_sizes(shapes["language"], shapes["embeddings"], qformer["encoder_hidden_size"], settings, words)
    features = FileShapes(folder, theirs.shapes).size(f"model.{PROJECTOR[0]}", 1)
    reads = interaction["hidden_size"], interaction["context_size"]
    check_interaction(files["interaction"], reads, (features, qformer["hidden_size"]))
    images = shapes["language"].size(f"{LLM_PREFIX}embed_tokens.weight", 0) - words - len(OWN_TOKENS)
    return Sources(
        **opened,
        files=files,
        adapter=adapter,
        qformer_config=qformer,
        interaction_config=interaction,
        llava=theirs,
        llava_folder=folder,
        words=words,
        tokenizer=_open_tokenizer(folder, words, images),
    )


def _open_tokenizer(folder: Path, words: int, images: int) -> LlamaTokenizer:
    """LLaMA's tokenizer with the tokens of SmartEdit's rows, of which `images` are image tokens."""
    tokenizer = load_language_tokenizer(folder, [*OWN_TOKENS, *(f"<img_{i}>" for i in range(images))])
    pieces = tokenizer.vocabulary_size - len(tokenizer.added)
    if pieces != words:
        raise WeightFileError(
            f"--llava: {folder / _TOKENIZER} has {pieces} pieces: expected {words}, as LLaVA has rows."
        )
    return tokenizer


def _find_smartedit(model: str) -> tuple[dict[str, Path], Adapter]:
    """SmartEdit's files, and the settings of its LoRA."""
    try:
        folder = find_files(model, [f"{pattern.partition('/')[0]}/*" for pattern in _FILES.values()])
    except ModelNotFound as error:
        raise ModelNotFound(f"--smartedit: {error} Published: {WHERE['smartedit']}.") from error
    found = {part: _find_file(folder, pattern) for part, pattern in _FILES.items()}
    if missing := [f"{_FILES[part].replace('*', '15000')}.bin" for part, file in found.items() if file is None]:
        raise ModelNotFound(
            f"--smartedit: {folder} lacks {', '.join(missing)} (or the same as .safetensors). Published: "
            f"{WHERE['smartedit']}."
        )
    # The published code looks for it beside the folders, and it is published in one of them.
    places = [found["language"].parent / _ADAPTER, folder / _ADAPTER]
    adapter = next((file for file in places if file.is_file()), None)
    if adapter is None:
        raise ModelNotFound(
            f"--smartedit: there is neither {places[0]} nor {places[1]}, without which the scale of LoRA is not known. "
            f"Published: {WHERE['smartedit']}."
        )
    return found, read_json(adapter, Adapter)


def _find_file(folder: Path, pattern: str) -> Path | None:
    for suffix in _SUFFIXES:
        files = sorted(folder.glob(f"{pattern}{suffix}"))
        if len(files) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in files)
            raise WeightFileError(f"--smartedit: {folder} has {names}: expected the files of one training step.")
        if files:
            return files[0]
    return None


def _find_llava(model: str) -> Path:
    folder = find_source("llava", model)
    find_files(model, [_TOKENIZER])  # a download of weights leaves it out, and puts it into the same folder
    if not (folder / _TOKENIZER).is_file():
        raise ModelNotFound(f"--llava: {folder / _TOKENIZER} is not there: copy LLaMA's. Published: {WHERE['llava']}.")
    return folder
