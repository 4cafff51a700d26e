import numpy as np
import pytest
from paths import REFERENCES
from PIL import Image
from tiny_tokenizer import write_tiny_tokenizer
from whole_batch import whole_batch

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.models.qwen_vision import QwenVisionConfig
from rewardedit_jax.models.vision_plan import plan_images
from rewardedit_jax.scoring.images import cut_patches, prepare_scorer_image
from rewardedit_jax.scoring.packing import feature_width, pack_items, pack_row, padded_length, prepare_item, stack_rows
from rewardedit_jax.scoring.prompts import PERSPECTIVES, chat_prompt
from rewardedit_jax.scoring.tokenizer import load_scorer_tokenizer

AREA = 56 * 84  # six tokens for an image of that aspect


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_scorer_tokenizer(write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def pictures():
    noise = np.random.default_rng(0)
    sizes = (56, 84), (84, 56), (60, 60), (200, 40)
    return [Image.fromarray(noise.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def items(tokenizer, pictures):
    """Two candidates for one source, and an edit with a longer instruction."""
    wide, tall, square, narrow = pictures
    asked = [(wide, tall, "add a bowl"), (wide, square, "add a bowl"), (narrow, tall, "turn it " * 100)]
    return [prepare_item(*triplet, tokenizer, area=AREA) for triplet in asked]


def _unpacked(prompts, row, k):
    """Indices of a packed row that prompt k consists of."""
    return np.flatnonzero((prompts.segments[row] == 0) | (prompts.segments[row] == k + 1))


@pytest.mark.parametrize("k", [0, 1])
def test_tokens_are_those_of_the_published_way(tokenizer, items, k):
    """There, each image token is repeated in the text before it is tokenized."""
    prompt = chat_prompt("add a bowl", PERSPECTIVES[k])
    first, rest = prompt.split("<|image_pad|>", 1)
    text = first + items[0].source.n_tokens * "<|image_pad|>"
    text += rest.replace("<|image_pad|>", items[0].edited.n_tokens * "<|image_pad|>")
    np.testing.assert_array_equal(items[0].prompts[k], tokenizer.encode(text))


def test_a_packed_row_holds_both_prompts(tokenizer, items):
    prompts = whole_batch(items, 4).prompts
    for row, item in enumerate(items):
        for k, ids in enumerate(item.prompts):
            index = _unpacked(prompts, row, k)
            np.testing.assert_array_equal(prompts.ids[row, index], ids)
            np.testing.assert_array_equal(prompts.positions[row, index], np.arange(len(ids)))
            assert prompts.reward_index[row, k] == index[-1]
            assert prompts.ids[row, index[-1]] == tokenizer.reward_id


def test_the_prefix_is_as_long_as_can_be(tokenizer, items):
    prompts = whole_batch(items, 3).prompts
    for row, item in enumerate(items):
        prefix = int((prompts.segments[row] == 0).sum())
        assert item.prompts[0][prefix] != item.prompts[1][prefix]
        assert tokenizer.base.decode(item.prompts[0][:prefix]).endswith("original source image** based on **")
        assert item.image_positions.max() < prefix


def test_the_prefixes_of_the_reference_scorer():
    arrays = np.load(REFERENCES / "edit_reward_a.npz")
    prefixes = []
    for row in range(2):
        prompts = [arrays[f"input_ids_dim{k}"][row][arrays[f"attention_mask_dim{k}"][row] == 1] for k in (1, 2)]
        packed = pack_row(prompts, np.empty(0, np.int32), np.empty(0, np.int32))
        prefixes.append(int((packed.segments == 0).sum()))
    assert prefixes == [95, 79]


def test_slots_point_to_the_features_of_the_right_image(tokenizer, items):
    batch = whole_batch(items, 4)
    n, width, _ = batch.patches.shape
    tokens = batch.patches.reshape(n * width // 4, 4, 588)  # what the tower merges into one feature
    for row, item in enumerate(items):
        slots = batch.prompts.image_slots[row]
        np.testing.assert_array_equal(slots >= 0, batch.prompts.ids[row] == tokenizer.image_id)
        expected = np.concatenate([cut_patches(item.source.pixels), cut_patches(item.edited.pixels)])
        np.testing.assert_array_equal(tokens[slots[slots >= 0]].reshape(-1, 588), expected)


def test_padding_is_marked(items):
    batch = whole_batch(items[:2], 6)
    rows = batch.prompts
    assert (rows.segments[:2] >= 0).any(axis=1).all()
    assert (rows.segments[2:] == -1).all()
    assert (rows.image_slots[2:] == -1).all()
    assert (rows.reward_index[2:] == 0).all()
    lengths = (rows.segments >= 0).sum(1)
    for row in range(2):
        assert (rows.segments[row, lengths[row] :] == -1).all()
        assert (rows.image_slots[row, lengths[row] :] == -1).all()
    for grid, patches in zip(batch.grids, batch.patches, strict=True):
        assert not patches[grid.prod() :].any()


def test_the_vision_tower_takes_every_batch(items):
    batch = whole_batch(items[:1], 8, images=4)
    assert len(batch.grids) == 4  # two are padding
    plan = plan_images(batch.grids, QwenVisionConfig(), batch.patches.shape[1])
    np.testing.assert_array_equal(plan.mask.sum(1), batch.grids.prod(1))


def test_shapes_come_in_steps(items):
    short, long = (whole_batch(some, 4, images=4) for some in (items[:2], items))
    assert short.patches.shape[0] == long.patches.shape[0] == 4
    for batch, some in ((short, items[:2]), (long, items)):
        most = max(image.n_patches for item in some for image in (item.source, item.edited))
        assert batch.patches.shape[1] == padded_length(most)
        assert batch.prompts.ids.shape[1] == padded_length(int(batch.prompts.reward_index.max()) + 1)
        images = [image for item in some for image in (item.source, item.edited)]
        assert feature_width(images) == padded_length(most) // 4


def test_lengths_are_few_and_near():
    lengths = range(1, 2049)
    padded = [padded_length(length) for length in lengths]
    assert all(length <= more < max(1.25 * length, length + 4) for length, more in zip(lengths, padded, strict=True))
    assert len(set(padded)) < 40
    assert {padded_length(patches) for patches in range(936, 1145)} == {1024, 1152}  # images of the usual shapes
    assert padded_length(21, 10) == 30


def test_the_arrays_have_the_types_that_networks_take(items):
    batch = whole_batch(items, 4)
    packed = batch.prompts
    arrays = (packed.ids, packed.positions, packed.segments, packed.image_slots, packed.reward_index, batch.grids)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    assert batch.patches.dtype == np.uint8
    assert packed.reward_index.shape == (4, 2)


@pytest.mark.parametrize("k", [0, 1])
def test_one_prompt_per_row_is_the_prompt_whole(items, k):
    prompts = whole_batch(items, 4, perspectives=PERSPECTIVES[k : k + 1]).prompts
    for row, item in enumerate(items):
        length = len(item.prompts[k])
        np.testing.assert_array_equal(prompts.ids[row, :length], item.prompts[k])
        np.testing.assert_array_equal(prompts.positions[row, :length], np.arange(length))
        assert (prompts.segments[row] == 0).sum() == length
        assert prompts.segments.max() == 0
        assert prompts.reward_index[row].tolist() == [length - 1]


def test_rows_of_other_tokens_are_stacked_alike():
    prompts = [np.array(ids, np.int32) for ids in ([5, 9, 9, 6, 1], [5, 9, 9, 7, 8, 1])]
    row = pack_row(prompts, np.array([1, 2], np.int32), np.array([40, 41], np.int32))
    packed = stack_rows([row], batch_size=2, row_multiple=10)
    assert packed.ids.tolist() == [[5, 9, 9, 6, 1, 7, 8, 1, 0, 0], [0] * 10]
    assert packed.positions[0].tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 0, 0]
    assert packed.segments.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2, -1, -1], [-1] * 10]
    assert packed.image_slots[0].tolist() == [-1, 40, 41, -1, -1, -1, -1, -1, -1, -1]
    assert packed.reward_index.tolist() == [[4, 7], [0, 0]]


def test_a_prepared_source_is_taken_as_it_is(tokenizer, pictures):
    source = prepare_scorer_image(pictures[0], AREA)
    assert prepare_item(source, pictures[1], "add a bowl", tokenizer, area=AREA).source is source


def test_invalid_items_are_reported_before_packing(tokenizer, pictures, tmp_path):
    line = Image.new("RGB", (201, 1))
    with pytest.raises(ImageError, match=r"edited: 201×1 pixels .*200"):
        prepare_item(pictures[0], line, "add a bowl", tokenizer)
    with pytest.raises(ImageError, match=r"source: image .*gone\.png cannot be read"):
        prepare_item(tmp_path / "gone.png", pictures[0], "add a bowl", tokenizer)
    with pytest.raises(ValueError, match=r"contains <\|Reward\|>"):
        prepare_item(pictures[0], pictures[1], "add a <|Reward|>", tokenizer, area=AREA)


@pytest.mark.parametrize("batch_size", [0, 2])
def test_items_fit_the_batch(items, batch_size):
    chosen = items[: 3 if batch_size else 0]
    with pytest.raises(ValueError, match=f"{len(chosen)} items.* {batch_size}"):
        pack_items(chosen, lambda image: 0, batch_size)
