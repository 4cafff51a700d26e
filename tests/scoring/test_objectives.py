import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import REFERENCES
from scipy import special

from rewardedit_jax.scoring.objectives import (
    OBJECTIVES,
    Pairs,
    Side,
    bradley_terry,
    bradley_terry_with_ties,
    hpsv2,
    likelihood_displacement,
    negative_log_probability,
    objective,
    preference_probability,
    thurstone,
    uncertainty,
    uncertainty_monte_carlo,
)

RNG = jax.random.key(0)
RATINGS = jnp.float32([[4, 3], [2, 2], [1, 4]]), jnp.float32([[2, 3], [2, 2], [3, 2]])
SETTINGS = {"likelihood_displacement": {"tau": 0.5}}
REGRESSIONS = ("reg", "reg_per_perspective")


def _pairs(a, b, tied=None, ratings=RATINGS):
    """Pairs whose perspectives both say what the aggregate says."""
    sides = [
        Side(jnp.float32(x), jnp.repeat(jnp.float32(x)[:, None], 2, axis=1), None if ratings is None else r[: len(x)])
        for x, r in zip((a, b), ratings or (None, None), strict=True)
    ]
    return Pairs(*sides, jnp.zeros(len(a), bool) if tied is None else jnp.array(tied))


def _losses(name, pairs, **settings):
    return jax.jit(objective(name, **{**SETTINGS.get(name, {}), **settings}))(pairs, RNG)


@pytest.fixture(scope="module")
def golden():
    return json.loads((REFERENCES / "edit_reward_losses.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def single_pairs(golden):
    """A, B of all golden pairs, and the expected values by name."""
    pairs = golden["pairs"]
    names = [name for name in pairs[0] if name not in "AB"]
    return (
        jnp.float32([p["A"] for p in pairs]),
        jnp.float32([p["B"] for p in pairs]),
        {name: np.array([p[name] for p in pairs]) for name in names},
    )


@pytest.fixture(params=["batch_of_2", "batch_of_3"])
def batch(request, golden):
    return golden["batches"][request.param]


class TestGoldenValues:
    @pytest.mark.parametrize("name", ["uncertainty", "uncertainty_with_margin"])
    def test_exact_expectations_and_their_gradients(self, single_pairs, name):
        a, b, expected = single_pairs
        loss = objective(name)
        np.testing.assert_allclose(_losses(name, _pairs(a, b, ratings=None)), expected[name], rtol=1e-6, atol=1e-6)
        grads = jax.jit(
            jax.grad(lambda a, b: loss(Pairs(Side(a, None), Side(b, None), jnp.zeros(len(a), bool)), RNG).sum(), (0, 1))
        )
        np.testing.assert_allclose(np.concatenate(grads(a, b), axis=1), expected[f"{name}_grad"], atol=2e-6)

    def test_the_papers_form(self, single_pairs):
        a, b, expected = single_pairs
        values = jax.jit(negative_log_probability)(a, b)
        np.testing.assert_allclose(values, expected["neg_log_expected_sigmoid"], rtol=1e-6, atol=1e-6)

    ELEMENTWISE: ClassVar = {
        "bt": bradley_terry,
        "constant_margin": lambda a, b: bradley_terry(a, b, margin=0.57),
        "likelihood_displacement": lambda a, b: likelihood_displacement(a, b, tau=0.5),
        "btt": lambda a, b: bradley_terry_with_ties(a, b, jnp.zeros(a.shape, bool)),
    }

    @pytest.mark.parametrize("name", ELEMENTWISE)
    def test_published_losses_of_both_columns(self, batch, name):
        value = self.ELEMENTWISE[name](jnp.float32(batch["A"]), jnp.float32(batch["B"])).mean()
        assert value == pytest.approx(batch["two_columns"][name], abs=5e-6)

    @pytest.mark.parametrize("name", ["bt", "constant_margin", "likelihood_displacement", "btt", "reg"])
    def test_published_losses_of_the_mean(self, batch, name):
        # Only the sum of the ratings matters to `reg`.
        ratings = tuple(jnp.float32([[x - 1, 1] for x in batch[f"overall_{side}"]]) for side in "AB")
        value = _losses(name, _pairs(batch["A"], batch["B"], ratings=ratings)).mean()
        assert value == pytest.approx(batch["first_column_only"][name], abs=5e-6)

    @pytest.mark.parametrize("name", ["bt", "constant_margin", "likelihood_displacement", "btt"])
    def test_published_losses_with_ties(self, batch, name):
        pairs = _pairs(batch["A"], batch["B"], tied=jnp.array(batch["nontied_mask"]) == 0)
        value = _losses(name, pairs).mean()
        assert value == pytest.approx(batch["first_column_only_masked"][name], abs=5e-6)

    def test_hpsv2_is_published_as_a_sum(self, batch):
        value = hpsv2(jnp.float32(batch["A"])[:, 0], jnp.float32(batch["B"])[:, 0]).sum()
        assert value == pytest.approx(batch["first_column_only"]["hpsv2"], abs=5e-6)

    @pytest.mark.parametrize(("name", "margin"), [("uncertainty", 0.0), ("uncertainty_with_margin", 0.57)])
    def test_sampling_has_the_published_mean_and_spread(self, golden, name, margin):
        batch = golden["batches"]["batch_of_2"]
        a, b = jnp.float32(batch["A"]), jnp.float32(batch["B"])
        keys = jax.random.split(RNG, 400)
        values = jax.jit(jax.vmap(lambda key: uncertainty_monte_carlo(a, b, key, margin).mean()))(keys)
        expected = batch[f"{name}_published_monte_carlo"]
        assert values.mean() == pytest.approx(expected["mean"], abs=4 * expected["std"] / np.sqrt(400))
        assert values.std() == pytest.approx(expected["std"], rel=0.15)  # four standard errors
        assert values.mean() == pytest.approx(float(uncertainty(a, b, margin).mean()), abs=4 * expected["std"] / 20)


class TestByName:
    A = jnp.float32([[1.5, -0.5], [0.2, 0.3], [-1, 0]])
    B = jnp.float32([[0.5, 0.1], [0.4, -0.2], [1, -1]])

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_every_objective_is_a_finite_loss_per_pair(self, name):
        values = _losses(name, _pairs(self.A, self.B))
        assert (values.shape, values.dtype) == ((3,), jnp.float32)
        assert np.isfinite(values).all()

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_a_step_down_its_gradient_widens_the_gap(self, name):
        loss = objective(name, **SETTINGS.get(name, {}))
        ratings = jnp.float32([[4, 4]] * 3), jnp.float32([[1, 1]] * 3)

        def total(shift):
            moved = self.A + jnp.array([1.0, 0.0]) * shift
            return loss(_pairs_traced(moved, self.B, ratings), RNG).sum()

        assert jax.jit(jax.grad(total))(0.0) < 0

    @pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"btt", "per_perspective", *REGRESSIONS}))
    def test_a_row_without_an_order_counts_nothing_in_a_ranking(self, name):
        tied, free = (_losses(name, _pairs(self.A, self.B, tied=[False, t, False])) for t in (True, False))
        assert tied[1] == 0
        np.testing.assert_array_equal(tied[::2], free[::2])

    def test_regressions_have_the_same_targets(self):
        """Perspectives on their targets are an aggregate on its own, and half a point off costs a quarter."""
        ratings = jnp.float32([[4, 1], [2, 3], [1, 1]])
        perspectives = jnp.stack([2 * ratings - 4.5, jnp.zeros((3, 2))], axis=-1)
        side = Side(perspectives.mean(axis=1), perspectives, ratings)
        for name in REGRESSIONS:
            assert not objective(name)(Pairs(side, side, jnp.zeros(3, bool)), RNG).any()
        off = Side(side.overall, perspectives + 0.5, ratings)
        np.testing.assert_allclose(objective(REGRESSIONS[1])(Pairs(side, off, jnp.zeros(3, bool)), RNG), 1 / 8)

    def test_settings_replace_the_published_ones(self):
        pairs = _pairs(self.A, self.B)
        np.testing.assert_array_equal(
            _losses("uncertainty_with_margin", pairs, margin=0.0), _losses("uncertainty", pairs)
        )

    def test_an_unknown_name_is_reported_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"objective.name='scaled'.* uncertainty, .*per_perspective"):
            objective("scaled")

    def test_settings_that_do_not_fit_are_reported_at_once(self):
        with pytest.raises(ValueError, match=r"objective.settings=\{'tau': 1\} .*'bt': .*'tau'"):
            objective("bt", tau=1)
        with pytest.raises(ValueError, match=r"objective.settings=\{\} .*'likelihood_displacement': .*'tau'"):
            objective("likelihood_displacement")

    @pytest.mark.parametrize("name", ["per_perspective", "reg_per_perspective"])
    def test_one_question_tells_nothing_of_two_perspectives(self, name):
        with pytest.raises(ValueError, match=f"'{name}' .*heads.kind"):
            objective(name, prompts=1)

    @pytest.mark.parametrize("name", ["per_perspective", *REGRESSIONS])
    def test_missing_ratings_are_reported(self, name):
        with pytest.raises(ValueError, match=f"'{name}' needs ratings"):
            objective(name)(_pairs(self.A, self.B, ratings=None), RNG)

    @pytest.mark.parametrize("name", ["uncertainty", "negative_log_probability", "thurstone"])
    def test_gradients_of_the_outputs_are_finite_at_extremes(self, name):
        def total(a, b):
            return objective(name)(Pairs(Side(a, None), Side(b, None), jnp.zeros(4, bool)), RNG).sum()

        a = jnp.float32([[d, log_std] for d in (-1e3, 1e3) for log_std in (-10, 10)])
        value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(a, a.at[:, 0].set(0))
        assert np.isfinite(value)
        assert np.isfinite(grads).all()


def _pairs_traced(a, b, ratings):
    sides = (Side(x, jnp.stack([x, x], axis=1), r) for x, r in zip((a, b), ratings, strict=True))
    return Pairs(*sides, jnp.zeros(len(a), bool))


class TestTies:
    def test_the_three_outcomes_are_all_there_is(self):
        d = jnp.linspace(-6, 6, 25)
        zero, no, yes = jnp.zeros_like(d), jnp.zeros(25, bool), jnp.ones(25, bool)
        outcomes = [(d, zero, no), (zero, d, no), (d, zero, yes)]
        total = sum(np.exp(-bradley_terry_with_ties(*outcome)) for outcome in outcomes)
        np.testing.assert_allclose(total, 1, atol=1e-6)

    def test_equal_scores_tie_in_four_of_six_cases(self):
        value = bradley_terry_with_ties(jnp.zeros(1, np.float32), jnp.zeros(1, np.float32), jnp.array([True]))
        assert np.exp(-value) == pytest.approx(4 / 6)


class TestPerPerspective:
    def _loss(self, ratings, ties="btt", tied=False, means=((1, 0), (0, 0)), log_std=-10.0):
        """Of one pair; `means`: of following and quality of either side."""
        sides = []
        for m, r in zip(means, ratings, strict=True):
            perspectives = jnp.float32([[[x, log_std] for x in m]])
            sides.append(Side(perspectives.mean(axis=1), perspectives, jnp.float32([r])))
        return float(_losses("per_perspective", Pairs(*sides, jnp.array([tied])), ties=ties)[0])

    def test_each_perspective_goes_its_own_way(self):
        # Following prefers the first edit, quality the second, overall the first.
        value = self._loss([(4, 1), (1, 2)], ties="masked", means=((1, 0.5), (0, 0)))
        assert value == pytest.approx(np.mean(np.logaddexp(0, [-1, 0.5, -0.75])), abs=1e-6)

    def test_equal_ratings_are_masked_or_tie(self):
        following, overall = np.logaddexp(0, [-1, -0.5])
        masked = self._loss([(4, 2), (1, 2)], ties="masked")
        assert masked == pytest.approx((following + overall) / 3, abs=1e-6)
        outcomes = jnp.float32([1, 0, 0.5]), jnp.zeros(3, np.float32), jnp.array([False, True, False])
        btt = self._loss([(4, 2), (1, 2)])
        assert btt == pytest.approx(float(bradley_terry_with_ties(*outcomes).mean()), abs=1e-6)

    def test_a_tied_pair_is_drawn_together_overall(self):
        together, apart = (self._loss([(2, 2), (2, 2)], tied=True, means=(m, (0, 0))) for m in ((0, 0), (3, 3)))
        assert together == pytest.approx(-np.log(4 / 6), abs=1e-6)
        assert apart > together

    def test_both_heads_learn_where_the_published_objective_has_one_gradient(self):
        ratings = jnp.float32([[4, 1]]), jnp.float32([[1, 2]])
        other = Side(jnp.zeros((1, 2), np.float32), jnp.zeros((1, 2, 2), np.float32), ratings[1])

        def loss(perspectives, name):
            pairs = Pairs(Side(perspectives.mean(axis=1), perspectives, ratings[0]), other, jnp.array([False]))
            return objective(name)(pairs, RNG).sum()

        start = jnp.zeros((1, 2, 2))
        following, quality = jax.jit(jax.grad(loss), static_argnums=1)(start, "uncertainty")[0, :, 0]
        assert following == quality < 0
        following, quality = jax.jit(jax.grad(loss), static_argnums=1)(start, "per_perspective")[0, :, 0]
        assert following < 0 < quality

    def test_an_unknown_treatment_of_ties_is_reported(self):
        with pytest.raises(ValueError, match="ties='drop'"):
            self._loss([(4, 1), (1, 2)], ties="drop")


class TestPreferenceProbability:
    def test_it_is_the_share_of_draws_in_which_a_is_better(self):
        a, b = jnp.float32([0.7, -0.5]), jnp.float32([0.2, 0.3])
        rng = np.random.default_rng(0)
        draws = [float(x[0]) + np.exp(float(x[1])) * rng.standard_normal(200_000) for x in (a, b)]
        assert preference_probability(a, b) == pytest.approx(np.mean(draws[0] > draws[1]), abs=0.004)

    def test_the_two_orders_add_up_to_one_and_the_same_edit_is_even(self):
        a, b = jnp.float32([[3, -9], [1, 2], [-50, -60]]), jnp.float32([[-3, -9], [0, 1], [60, -60]])
        np.testing.assert_allclose(preference_probability(a, b) + preference_probability(b, a), 1, atol=1e-6)
        np.testing.assert_array_equal(preference_probability(a, a), 0.5)

    def test_thurstone_is_the_surprise_at_it(self):
        a, b = jnp.float32([[1, -1], [0, 0.5], [-4, 0]]), jnp.float32([[0, 0], [0.5, 0], [4, 0]])
        np.testing.assert_allclose(jnp.exp(-thurstone(a, b)), preference_probability(a, b), rtol=1e-5)

    def test_thurstones_gradient_is_right_far_out(self):
        """φ/Φ by the scaled complementary error function, which has no cancellation."""
        ratios = np.array([-1e6, -1e4, -3e3, -100, -11, -10.001, -9.99, -5, 0, 5, 10], np.float32)
        expected = np.sqrt(2 / np.pi) / special.erfcx(-ratios.astype(np.float64) / np.sqrt(2))
        b = jnp.zeros(2) - jnp.log(2) / 2  # two variances of 1/2: the difference is its own ratio
        found = [-jax.grad(lambda d: thurstone(b.at[0].set(d), b.at[0].set(0)))(d) for d in ratios]
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_thurstone_learns_what_is_true(self):
        """Of pairs that come true in 7 of 10 cases, it is least where 0.7 is stated, whatever σ was given."""
        for log_std in (-2.0, 0.0, 1.0):

            def cost(d, log_std=log_std):
                a, b = (jnp.stack([mean, jnp.full_like(d, log_std)]) for mean in (d, jnp.zeros_like(d)))
                return 0.7 * thurstone(a, b) + 0.3 * thurstone(b, a)

            best = 0.524400 * np.sqrt(2) * np.exp(log_std)  # Φ⁻¹(0.7) s
            assert abs(jax.grad(cost)(jnp.float32(best))) < 1e-4 * np.exp(-log_std)
            assert jax.grad(cost)(jnp.float32(0.9 * best)) < 0 < jax.grad(cost)(jnp.float32(1.1 * best))
