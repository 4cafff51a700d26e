import jax.numpy as jnp
import numpy as np
import pytest

from rewardedit_jax import Reward
from rewardedit_jax.reward import join_feedback


def test_default_asks_for_the_best():
    assert Reward() == Reward(5, 5, 5)
    np.testing.assert_array_equal(Reward().scores, np.float32([5, 5, 5]))
    assert Reward().texts == ("None", "None", "None")


def test_scores_keep_their_order_and_become_floats():
    reward = Reward(following=4, preserving=np.float32(1.5), quality=3)
    np.testing.assert_array_equal(reward.scores, np.float32([4, 1.5, 3]))
    assert type(reward.following) is type(reward.preserving) is float
    assert hash(Reward(feedback=["a", "b", "c"])) == hash(Reward(feedback=("a", "b", "c")))


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    "score", [-0.1, 5.1, float("nan"), float("inf"), "5", None, True, np.bool_(True), 3 + 0j, [5], np.ones(1), b"5"]
)
def test_scores_that_are_no_number_in_0_to_5(score):
    with pytest.raises(ValueError, match=r"reward preserving=.*0\.\.5"):
        Reward(preserving=score)


@pytest.mark.parametrize("score", [np.float32(3), np.int64(3), np.array(3), jnp.array(3.0), jnp.bfloat16(3)])
def test_scalars_of_numpy_and_jax_are_scores(score):
    assert Reward(score) == Reward(3)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    "feedback", ["None; None; None", ("None", "None"), (), ("a", None, "b"), ("a", "\ud800", "b"), 5]
)
def test_feedback_is_three_texts(feedback):
    with pytest.raises(ValueError, match=r"feedback must be three texts \(following, preserving, quality\)"):
        Reward(feedback=feedback)


def test_feedback_of_the_chosen_perspectives_is_joined():
    feedback = ("no snow", "None", "grainy")
    assert join_feedback(feedback) == "no snow; None; grainy"
    assert join_feedback(feedback, ("quality", "following")) == "no snow; grainy"
    assert join_feedback(feedback, ("preserving",)) == "None"


def test_unknown_perspectives_are_refused():
    with pytest.raises(ValueError, match="unknown perspectives beauty"):
        join_feedback(("a", "b", "c"), ("beauty", "quality"))
    with pytest.raises(ValueError, match="zip"):
        join_feedback(("a", "b"))
