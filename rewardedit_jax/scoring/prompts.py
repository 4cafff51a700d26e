"""The words around a pair of images: what EditReward is asked about an edit, as a chat turn of Qwen2.5-VL.

The wording belongs to published weights like a layer does: other words give other scores. The two templates are those
of the paper's appendix A.9 as its code has them (`templates/`, byte for byte; fact sheet 1.2 to 1.4).
"""

import re
from functools import cache
from importlib.resources import files

# In the order of the published heads (dim1, dim2).
PERSPECTIVES = ("following", "quality")
REWARD_TOKEN = "<|Reward|>"
IMAGE_TOKEN = "<|image_pad|>"
QWEN_SYSTEM = "You are a helpful assistant."
NO_SYSTEM = "<no system turn>"  # a system text that stands for none: an empty one is a turn without words

_IMAGE = f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"
_SUFFIX = f"\nPlease provide the overall ratings of this image: {REWARD_TOKEN}\n\nEND\n"
# In an instruction these would be read as tokens: a second reward token, an image that is not there, the turn's end.
# Besides the reward token they are Qwen2.5-VL's special tokens.
RESERVED_TOKENS = (
    REWARD_TOKEN,
    IMAGE_TOKEN,
    "<|video_pad|>",
    *(f"<|vision_{part}|>" for part in ("start", "end", "pad")),
    *(f"<|{shape}_{part}|>" for shape in ("object_ref", "box", "quad") for part in ("start", "end")),
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
)


def question(instruction: str, perspective: str) -> str:
    """The text after the two images: template, instruction (as it is, braces too), request for the rating.

    Raises:
      ValueError: for an empty instruction, one that is no Unicode text (half a surrogate pair), one that contains the
        reward token or a special token of Qwen2.5-VL, or a perspective that has no template.
    """
    if perspective not in PERSPECTIVES:
        raise ValueError(f"the scorer has no prompt for {perspective!r}; it has {', '.join(PERSPECTIVES)}.")
    _check(instruction)
    return _template(perspective).replace("{text_prompt}", instruction) + _SUFFIX


def chat_prompt(instruction: str, perspective: str, system: str = QWEN_SYSTEM) -> str:
    """The whole conversation about one edit, source first, with one `IMAGE_TOKEN` for each image.

    Args:
      system: text of the system turn, or `NO_SYSTEM`. Qwen's is the default; MiMo-VL's chat template has its own ("You
        are MiMo, an AI assistant developed by Xiaomi." in the first version).
    Raises:
      ValueError: as `question`.
    """
    user = f"{_IMAGE}{_IMAGE}{question(instruction, perspective)}"
    opening = "" if system == NO_SYSTEM else f"<|im_start|>system\n{system}<|im_end|>\n"
    return f"{opening}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def fixed_phrases() -> list[str]:
    """The parts of chat prompts that are the same for every edit, in order; a small tokenizer may know each as one."""
    prompts = (chat_prompt("{}", perspective) for perspective in PERSPECTIVES)
    pieces = (piece for prompt in prompts for piece in re.split(r"<\|\w+\|>|\{\}", prompt))
    return list(dict.fromkeys(filter(None, pieces)))


@cache
def _template(perspective: str) -> str:
    # Bytes, because reading as text would translate line ends on some systems.
    return (files(__package__) / "templates" / f"{perspective}.txt").read_bytes().decode("utf-8")


def _check(instruction: str) -> None:
    if not instruction.strip():
        raise ValueError(f"the instruction is empty ({instruction!r}): an edit is judged by what was asked for.")
    try:
        instruction.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the instruction is no Unicode text ({error}): write {instruction!r} anew.") from error
    if found := [token for token in RESERVED_TOKENS if token in instruction]:
        raise ValueError(
            f"the instruction contains {', '.join(found)}, which the scorer keeps for itself: take it out of "
            f"{instruction!r}."
        )
