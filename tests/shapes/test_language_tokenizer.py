"""The tokenizer of the shapes world's language model: words and shared sentences are one piece each."""

import pytest

from rewardedit_jax.data.llama_tokenizer import load_language_tokenizer
from rewardedit_jax.data.smartedit_prompts import conversation, image_tokens, read_conversations
from rewardedit_jax.shapes.language_tokenizer import IMAGES, shapes_language_tokenizer
from rewardedit_jax.shapes.visual_questions import language_texts
from rewardedit_jax.weights.hub import SHIPPED


@pytest.fixture(scope="module")
def tokenizer():
    return shapes_language_tokenizer()


def pieces(tokenizer, text):
    return [tokenizer.backend.id_to_token(i) for i in tokenizer.encode(text)]


def test_each_making_gives_the_same_ids(tokenizer):
    assert shapes_language_tokenizer.__wrapped__().digest() == tokenizer.digest()


def test_the_one_that_ships_is_this_one(tokenizer, tmp_path):
    shipped = SHIPPED / "shapes" / "language_tokenizer"
    assert load_language_tokenizer(shipped).digest() == tokenizer.digest()
    tokenizer.save(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (shipped / file.name).read_bytes()


def test_every_text_of_the_world_has_an_id_for_each_word(tokenizer):
    for text in set(language_texts()):
        assert len(tokenizer.encode(text)) == 1 + len(text.split())


def test_other_words_are_spelled(tokenizer):
    assert pieces(tokenizer, "zebra é") == ["<s>", "▁z", "e", "b", "r", "a", "▁", "<0xC3>", "<0xA9>"]


def test_a_conversation_has_a_piece_for_each_shared_sentence(tokenizer):
    told = pieces(tokenizer, "".join(conversation("make the red circle blue", image_tokens(tokenizer))))
    images = [f"<img_{k}>" for k in range(IMAGES)]
    assert told[0] == "<s>"
    assert told[2] == "<img>"
    assert told[4:13] == ["<im_start>", "<img_0>", "<im_end>", "▁make", "▁the", "▁red", "▁circle", "▁blue", told[12]]
    assert told[14:] == [*images, "</s>"]
    assert told[12] == '".▁ASSISTANT:'
    assert (told[1][:7], told[3][-1], told[13][:10]) == ("▁A▁chat", '"', "▁Certainly")


def test_the_reply_begins_with_its_sentence(tokenizer):
    """A piece across the end of the prompt would hide where the reply begins."""
    told = read_conversations(tokenizer, ["make it a sketch"], tokenizer.length, pytest.fail)
    begin = told.reply_from[0]
    assert tokenizer.backend.id_to_token(int(told.ids[0, begin])).startswith("▁Certainly")
    assert told.reply_at.tolist() == [list(range(begin + 1, begin + 1 + IMAGES))]


def test_the_longest_instruction_fits(tokenizer):
    text = "change the texture of the purple triangle at the bottom right to checkered"
    told = read_conversations(tokenizer, [text], tokenizer.length, pytest.fail)
    assert told.lengths[0] == 18 + len(text.split())
