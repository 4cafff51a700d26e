import hashlib

import pytest

from rewardedit_jax.scoring.prompts import NO_SYSTEM, PERSPECTIVES, REWARD_TOKEN, _template, chat_prompt, question

INSTRUCTION = "Add a green bowl on the branch"


def _sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("perspective", "unfilled", "filled", "length"),
    [
        (
            "following",
            "da5bfc26898cc8e0e534a29675ad78c3462d331b7feaebf13bae5aa50195864f",
            "762761b5f69eb4b5e3ca0bfeb3ce6011a2f6c4eda9bc22ca5ec5831ad4aa2943",
            1904,
        ),
        (
            "quality",
            "89bbc5c2ac1bbea9c45a0fde298e9a97d1c079170a30780392c577fc1cd8d286",
            "b5813a93a0ab806e44cf4792a2e71d6b0f1bfa08bccfd56be076c8f35beaf224",
            1808,
        ),
    ],
)
def test_the_wording_is_the_published_one(perspective, unfilled, filled, length):
    text = question(INSTRUCTION, perspective)
    assert (_sha256(_template(perspective)), _sha256(text), len(text)) == (unfilled, filled, length)


def test_the_request_for_the_rating_is_the_published_one():
    suffix = question(INSTRUCTION, "quality").rpartition(f"{INSTRUCTION}\n")[2]
    assert _sha256(suffix) == "2471faca094ae5bd6fe17b71dce20c3d7583625545e235889f7e74e7eeb69d0a"


def test_the_chat_is_qwens_with_unlabelled_images():
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert chat_prompt(INSTRUCTION, "following") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{image}{image}{question(INSTRUCTION, 'following')}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_another_model_has_another_system_turn():
    mimo = chat_prompt(INSTRUCTION, "quality", "You are MiMo.")
    assert mimo == chat_prompt(INSTRUCTION, "quality").replace("You are a helpful assistant.", "You are MiMo.")
    assert "helpful" not in mimo


def test_there_may_be_no_system_turn_or_an_empty_one():
    qwen = chat_prompt(INSTRUCTION, "quality")
    assert chat_prompt(INSTRUCTION, "quality", "") == qwen.replace("You are a helpful assistant.", "")
    assert chat_prompt(INSTRUCTION, "quality", NO_SYSTEM) == qwen[qwen.index("<|im_start|>user") :]


@pytest.mark.parametrize("instruction", ["write {x} and {", "{text_prompt}", "{0}}", "50% \\n of {{it}}", "  padded "])
def test_instructions_are_taken_literally(instruction):
    plain = question(INSTRUCTION, "following")
    assert question(instruction, "following") == plain.replace(INSTRUCTION, instruction)


@pytest.mark.parametrize(
    "token",
    [
        REWARD_TOKEN,
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|object_ref_start|>",
        "<|box_end|>",
        "<|quad_start|>",
    ],
)
@pytest.mark.parametrize("perspective", PERSPECTIVES)
def test_tokens_of_the_scorer_are_refused_in_instructions(token, perspective):
    with pytest.raises(ValueError, match=r"contains <\|\w+\|>"):
        question(f"add {token} here", perspective)


@pytest.mark.parametrize("instruction", ["", " \n"])
def test_an_empty_instruction_is_refused(instruction):
    with pytest.raises(ValueError, match="empty"):
        question(instruction, "following")


def test_there_are_prompts_for_two_perspectives():
    with pytest.raises(ValueError, match=r"'preserving'.*following, quality"):
        question(INSTRUCTION, "preserving")
