import re

import numpy as np
import pytest
from paths import SHARED_FIXTURES
from toy_llama import added_tokens, toy_pieces, write_model, write_toy_tokenizer

from rewardedit_jax.data.llama_tokenizer import END_ID, load_language_tokenizer
from rewardedit_jax.data.smartedit_prompts import (
    NO_TARGET,
    PAIR,
    TemplatePair,
    conversation,
    find_replies,
    image_tokens,
    language_targets,
    read_conversations,
)

LENGTH = 512
# What read_conversations refuses in an instruction, on the reference SmartEdit.
REFUSED = re.compile(r"<img>|<img_[0-3]>|<im_start>|<im_end>|<unk>")


def never_cut(text, tokens):
    raise AssertionError(f"{tokens} tokens of {text} were cut")


@pytest.fixture(scope="module")
def smartedit_a_arrays(smartedit_a):
    return {name: np.load(SHARED_FIXTURES / "smartedit_a" / f"{name}.npz") for name in ("mllm", "train")}


@pytest.fixture(scope="module")
def read_a(smartedit_a, smartedit_a_tokenizer):
    """The conversations of the reference SmartEdit about instructions, each with its number of a template pair."""

    def read(cases, length, report_cut=never_cut, **options):
        pairs = [TemplatePair(*pair) for pair in smartedit_a["conversation"]["pairs"]]
        rows = [
            read_conversations(smartedit_a_tokenizer, [text], length, report_cut, pair=pairs[pair], **options)
            for text, pair in cases
        ]
        return type(rows[0])(**{name: np.concatenate([getattr(row, name) for row in rows]) for name in vars(rows[0])})

    return read


def image_token_mask(conversations):
    """Where the image tokens are, the placeholder included."""
    mask = np.zeros(conversations.ids.shape, bool)
    places = np.concatenate([conversations.image_at[:, None], conversations.reply_at], 1)
    np.put_along_axis(mask, places, True, 1)
    return mask


def test_conversations_are_those_of_the_published_editor(smartedit_a, smartedit_a_arrays, read_a):
    expected = smartedit_a_arrays["mllm"]
    cases = list(zip(smartedit_a["instructions"], smartedit_a["instruction_pairs"], strict=True))
    ours = read_a(cases, expected["input_ids"].shape[1])
    np.testing.assert_array_equal(ours.ids, expected["input_ids"])
    np.testing.assert_array_equal(ours.lengths, expected["lengths"])
    np.testing.assert_array_equal(ours.image_at, expected["visual_position"])
    # The placeholder makes room for the features of the image.
    moved = ours.reply_at - 1 + smartedit_a["sizes"]["visual_tokens"]
    np.testing.assert_array_equal(moved, expected["image_positions"])
    assert ours.editing.all()


def test_joint_training_reads_the_published_batch(smartedit_a, smartedit_a_arrays, read_a):
    expected, cut = smartedit_a_arrays["train"], []
    cases = [(sample["instruction"], sample["pair"]) for sample in smartedit_a["train"]["samples"]]
    ours = read_a(cases, smartedit_a["sizes"]["text_max"], lambda *args: cut.append(args), empty_overlong=True)
    np.testing.assert_array_equal(ours.ids, expected["input_ids"])
    np.testing.assert_array_equal(ours.ids != 0, expected["attention_mask"])
    np.testing.assert_array_equal(language_targets(ours), expected["targets"])
    np.testing.assert_array_equal(image_token_mask(ours), expected["image_token_mask"])
    np.testing.assert_array_equal(ours.editing, expected["is_editing"] == 1)
    assert [text for text, _ in cut] == [cases[3][0]]
    assert (language_targets(ours) != NO_TARGET).sum() == 78


def test_token_cases_are_read_as_the_published_editor_does_or_refused(smartedit_a, read_a):
    read = 0
    for case in smartedit_a["token_cases"]:
        instruction, training = case["instruction"], case["training"]
        if found := REFUSED.findall(instruction):
            with pytest.raises(ValueError, match=found[0]):
                read_a([(instruction, case["pair"])], LENGTH)
            continue
        ours = read_a([(instruction, case["pair"])], 288, lambda *_: None, empty_overlong=True)
        published = training.get("input_ids", case["prompt_ids"] + case["reply_ids"])
        assert ours.ids[0, : ours.lengths[0]].tolist() == published
        assert [int(ours.image_at[0]), *ours.reply_at[0].tolist()] == training["keys"]
        assert bool(ours.editing[0]) == training["editing"]
        # Published training takes the first " ASSISTANT: " for the beginning of the reply.
        first = 143 if "ASSISTANT: " in instruction else training["targets"][0]
        np.testing.assert_array_equal(
            np.flatnonzero(language_targets(ours)[0] != NO_TARGET), np.arange(first, len(published))
        )
        read += 1
    assert read == 18


def test_an_instruction_that_is_too_long_loses_its_end_and_never_the_reply(smartedit_a, read_a):
    case, cut = smartedit_a["token_cases"][-1], []
    ours = read_a([(case["instruction"], case["pair"])], 288, lambda *args: cut.append(args))
    whole = case["prompt_ids"] + case["reply_ids"]
    assert cut == [(case["instruction"], len(whole) - 288)]
    ids = ours.ids[0, : ours.lengths[0]].tolist()
    assert ids[-len(case["reply_ids"]) :] == case["reply_ids"]
    assert ours.image_at[0] == whole.index(643)
    assert ids[:200] == whole[:200]
    assert ours.editing.all()


def test_the_layout_of_a_conversation():
    prompt, reply = conversation("make it {blue}", ("<img_0>", "<img_1>"))
    assert prompt.startswith("A chat between a curious user and an artificial intelligence assistant. The")
    assert prompt.endswith(
        " answers to the user's questions. USER: Please generate a visual that represents the former picture and "
        'message "<im_start> <img_0> <im_end>make it {blue}". ASSISTANT:'
    )
    assert reply == " Certainly, I can generate the visual you're looking for <img_0> <img_1></s>"


def test_slots_within_an_instruction_are_words():
    prompt, reply = conversation("[cap] and [img].", ("<img_0>",), TemplatePair("say [cap] now", "here [img]."))
    assert prompt.endswith('USER: say "<im_start> <img_0> <im_end>[cap] and [img]." now ASSISTANT:')
    assert reply == " here <img_0></s>"


def test_newlines_are_deleted_and_other_white_space_stays(toy_llama):
    read = lambda text: read_conversations(toy_llama, [text], LENGTH, never_cut).ids.tolist()  # noqa: E731
    assert read("one\ntwo\n") == read("onetwo")
    assert len({str(read(text)) for text in ("one two", "one  two", "one\ttwo", "one\rtwo", "onetwo", "one two ")}) == 6


@pytest.mark.parametrize("images", [1, 4, 32])
def test_places_follow_from_the_tokenizer(tmp_path, images):
    tokenizer = load_language_tokenizer(write_toy_tokenizer(tmp_path, images))
    ours = read_conversations(tokenizer, ["make it blue", "", "x y"], LENGTH, never_cut)
    assert image_tokens(tokenizer) == tuple(f"<img_{k}>" for k in range(images))
    tokens = [tokenizer.added[f"<img_{k}>"] for k in range(images)]
    assert ours.reply_at.shape == (3, images)
    np.testing.assert_array_equal(np.take_along_axis(ours.ids, ours.reply_at, 1), [tokens] * 3)
    np.testing.assert_array_equal(np.take_along_axis(ours.ids, ours.image_at[:, None], 1), [tokens[:1]] * 3)
    np.testing.assert_array_equal(ours.reply_at[:, -1], ours.lengths - 2)
    np.testing.assert_array_equal(np.take_along_axis(ours.ids, ours.lengths[:, None] - 1, 1), 2)
    for row, (length, reply_from) in enumerate(zip(ours.lengths, ours.reply_from, strict=True)):
        assert not ours.ids[row, length:].any()
        prompt = conversation(["make it blue", "", "x y"][row], image_tokens(tokenizer))[0]
        assert ours.ids[row, :reply_from].tolist() == tokenizer.encode(prompt)
    assert {x.dtype for x in (ours.ids, ours.lengths, ours.image_at, ours.reply_at, ours.reply_from)} == {
        np.dtype("i4")
    }


def test_targets_are_the_reply_and_its_end(toy_llama):
    """Whatever the instruction says."""
    ours = read_conversations(toy_llama, ["say ASSISTANT: hello", "x"], LENGTH, never_cut)
    words = "Certainly, I can generate the visual you're looking for"
    reply = toy_llama.encode(f"{words} <img_0> <img_1> <img_2> <img_3></s>")[1:]
    for row, targets in enumerate(language_targets(ours)):
        at = np.arange(LENGTH)
        inside = (at >= ours.lengths[row] - len(reply)) & (at < ours.lengths[row])
        assert targets[inside].tolist() == reply
        assert (targets[~inside] == NO_TARGET).all()


@pytest.mark.parametrize("words", ["lamp " * 300, "把天空变成红色" * 60, "a" * 2000, "\n" * 50 + "🎈" * 200])
def test_as_much_of_an_instruction_is_kept_as_fits(toy_llama, words):
    cut, empty = [], int(read_conversations(toy_llama, [""], LENGTH, never_cut).lengths[0])
    length = empty + 40
    ours = read_conversations(toy_llama, ["blue", words], length, lambda *args: cut.append(args))
    whole = read_conversations(toy_llama, [words], 8192, never_cut)
    assert cut == [(words, int(whole.lengths[0]) - length)]
    assert length - 4 < ours.lengths[1] <= length  # a character takes up to four ids
    np.testing.assert_array_equal(ours.ids[1, : empty - 20], whole.ids[0, : empty - 20])
    reply = [ours.ids[row, ours.reply_from[row] : ours.lengths[row]].tolist() for row in range(2)]
    assert reply[0] == reply[1]
    assert ours.editing.tolist() == [True, True]


def test_an_instruction_of_exactly_the_length_is_kept(toy_llama):
    length = int(read_conversations(toy_llama, ["make it blue"], LENGTH, never_cut).lengths[0])
    for empty_overlong in (False, True):
        ours = read_conversations(toy_llama, ["make it blue"], length, never_cut, empty_overlong=empty_overlong)
        assert ours.lengths[0] == length
        assert ours.editing[0]


def test_an_emptied_instruction_is_no_edit(toy_llama):
    empty, cut = read_conversations(toy_llama, [""], LENGTH, never_cut), []
    length, report = int(empty.lengths[0]) + 4, lambda *args: cut.append(args)
    ours = read_conversations(toy_llama, ["x", "lamp " * 300], length, report, empty_overlong=True)
    np.testing.assert_array_equal(ours.ids[1], empty.ids[0, :length])
    assert ours.editing.tolist() == [True, False]
    assert [text for text, _ in cut] == ["lamp " * 300]


def test_a_length_without_room_for_the_reply_is_refused(toy_llama):
    least = int(read_conversations(toy_llama, [""], LENGTH, never_cut).lengths[0])
    for empty_overlong in (False, True):
        with pytest.raises(ValueError, match=rf"length={least - 1}: expected {least} or more"):
            read_conversations(toy_llama, ["x"], least - 1, lambda *_: None, empty_overlong=empty_overlong)


@pytest.mark.parametrize("token", ["<img>", "<im_start>", "<im_end>", "<img_0>", "<img_3>", "<unk>", "<im\n_end>"])
def test_tokens_within_an_instruction_are_refused_by_name(toy_llama, token):
    with pytest.raises(ValueError, match=f"the instruction contains {token.replace(chr(10), '')},.*remove it"):
        read_conversations(toy_llama, ["x", f"copy {token} here"], LENGTH, never_cut)


def test_what_looks_like_a_token_is_text(toy_llama):
    read_conversations(toy_llama, ["<IMG_1> < img_1> <img_01> <img_4> </s> <s>"], LENGTH, never_cut)


def test_text_that_is_not_unicode_is_refused(toy_llama):
    with pytest.raises(ValueError, match="not valid Unicode"):
        read_conversations(toy_llama, ["make it \ud800 blue"], LENGTH, never_cut)


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        (TemplatePair("say it", PAIR.reply), r"request 'say it' has 0 '\[cap\]'"),
        (TemplatePair("[cap] [cap]", PAIR.reply), r"has 2 '\[cap\]'"),
        (TemplatePair(PAIR.request, "Here it is."), r"reply 'Here it is\.' has 0 ' \[img\]\.'"),
        (TemplatePair("<img_0> [cap]", PAIR.reply), "the template's request contains <img_0>"),
    ],
)
def test_templates_without_their_slots_are_refused(toy_llama, pair, named):
    with pytest.raises(ValueError, match=named):
        read_conversations(toy_llama, ["x"], LENGTH, never_cut, pair=pair)


def test_a_tokenizer_without_smartedits_tokens_is_refused_by_name(tmp_path):
    pieces = toy_pieces()
    write_model(tmp_path / "tokenizer.model", pieces)
    # LLaVA's own tokens, the state before conversion.
    listed = dict(zip(["<im_patch>", "<im_start>", "<im_end>"], added_tokens(pieces).values(), strict=False))
    (tmp_path / "added_tokens.json").write_text(str(listed).replace("'", '"'))
    with pytest.raises(ValueError, match=r"lacks <img>, <img_0>: convert the published model again"):
        read_conversations(load_language_tokenizer(tmp_path), ["x"], LENGTH, never_cut)


def test_no_instructions_give_no_rows(toy_llama):
    ours = read_conversations(toy_llama, [], LENGTH, never_cut)
    assert (ours.ids.shape, ours.reply_at.shape, ours.image_at.shape) == ((0, LENGTH), (0, 4), (0,))


def test_a_reply_has_every_image_token_once_in_order():
    replies = {
        (5, 11, 12, 13, END_ID): [4, 5, 6],
        (11, 5, 12, 5, 13): [3, 5, 7],  # the row is at its end
        (11, 12, 13, END_ID, 11): [3, 4, 5],  # what is behind the end counts for nothing
        (11, 13, 12, END_ID, 0): None,
        (11, 12, END_ID, 13, 0): None,
        (11, 12, 13, 13, END_ID): None,
        (5, 5, END_ID, 0, 0): None,
    }
    ids = np.int32([[1, 11, END_ID, *reply] for reply in replies])  # the prompt has tokens of both kinds
    found = find_replies(ids, np.full(len(ids), 3, np.int32), [11, 12, 13])
    assert [at if at is None else at.tolist() for at in found] == list(replies.values())
