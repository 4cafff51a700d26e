"""The prompts of EditReward (arXiv:2509.26346, appendix A.9), as chat turns of Qwen2.5-VL.

Published weights were trained with these very words, and other words give other scores. `templates/` has the templates
byte for byte as in EditReward's code (`dataset/prompts.py`: INSTRUCTION_EDIT_FOLLOWING, INSTRUCTION_EDIT_QUALITY). The
appendix prints the opening of the quality template in both. A prompt asks about one perspective.
"""

import re
from functools import cache
from importlib.resources import files

# In the order of the published heads, which its code calls dim1 and dim2.
PERSPECTIVES = ("following", "quality")
REWARD_TOKEN = "<|Reward|>"
IMAGE_TOKEN = "<|image_pad|>"
QWEN_SYSTEM = "You are a helpful assistant."
NO_SYSTEM = "<no system turn>"  # marks prompts without a system turn; an empty text is a turn without words

_IMAGE = f"<|vision_start|>{IMAGE_TOKEN}<|vision_end|>"
_SUFFIX = f"\nPlease provide the overall ratings of this image: {REWARD_TOKEN}\n\nEND\n"
# The reward token and Qwen2.5-VL's special tokens. In an instruction, the tokenizer would take them as tokens: a second
# reward token, an image that does not exist, the end of the turn.
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
    """The text after the two images: the template with the instruction, and the request for a rating.

    Raises:
      ValueError: the instruction is empty, not valid Unicode, or contains one of `RESERVED_TOKENS`.
    """
    if perspective not in PERSPECTIVES:
        raise ValueError(f"perspective {perspective!r}: expected one of {', '.join(PERSPECTIVES)}.")
    _check(instruction)
    # `replace` rather than `format`: instructions may contain braces.
    return _template(perspective).replace("{text_prompt}", instruction) + _SUFFIX


def chat_prompt(instruction: str, perspective: str, system: str = QWEN_SYSTEM) -> str:
    """The conversation about one edit, with one `IMAGE_TOKEN` for the source and one for the edited image.

    Args:
      system: text of the system turn, or `NO_SYSTEM`. The default is Qwen's; the chat template of MiMo-VL has another
        ("You are MiMo, an AI assistant developed by Xiaomi." in its first version).
    """
    user = f"{_IMAGE}{_IMAGE}{question(instruction, perspective)}"
    opening = "" if system == NO_SYSTEM else f"<|im_start|>system\n{system}<|im_end|>\n"
    return f"{opening}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def fixed_phrases() -> list[str]:
    """The texts that all chat prompts share, in order. A small tokenizer can have a single token for each."""
    prompts = (chat_prompt("{}", perspective) for perspective in PERSPECTIVES)
    pieces = (piece for prompt in prompts for piece in re.split(r"<\|\w+\|>|\{\}", prompt))
    return list(dict.fromkeys(filter(None, pieces)))


@cache
def _template(perspective: str) -> str:
    # As bytes: reading as text would translate line ends on some systems.
    return (files(__package__) / "templates" / f"{perspective}.txt").read_bytes().decode("utf-8")


def _check(instruction: str) -> None:
    if not instruction.strip():
        raise ValueError(f"the instruction is empty ({instruction!r}): the score depends on what the edit was to be.")
    try:
        instruction.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"instruction {instruction!r} is not valid Unicode ({error}): type it again.") from error
    if found := [token for token in RESERVED_TOKENS if token in instruction]:
        raise ValueError(
            f"the instruction contains {', '.join(found)}, a reserved token of the scorer: remove it from "
            f"{instruction!r}."
        )
