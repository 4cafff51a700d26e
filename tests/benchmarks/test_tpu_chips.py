"""The roofline in closed form."""

import pytest
from program_costs import BETWEEN_SLICES, Collective
from tpu_chips import Chip, Place, Roofline, collective_seconds, roofline

CHIP = Chip(flops=100.0, hbm=1e3, hbm_rate=10.0, ici_rate=8.0, axes=2, dcn_rate=1.0)
# Two slices of 2 × 4 chips.
PLACES = [Place(of, (x, y, 0)) for of in range(2) for x in range(2) for y in range(4)]


@pytest.mark.parametrize(
    ("kind", "group", "seconds"),
    [
        # Along one axis half of the links are used: 4 bytes per second.
        ("all-reduce", (0, 1, 2, 3), 2 * 80 * 3 / 4 / 4),
        ("all-gather", (0, 1, 2, 3), 80 * 3 / 4 / 4),
        ("reduce-scatter", (0, 4), 80 / 2 / 4),
        ("all-to-all", (0, 1, 2, 3), 80 * 3 / 4 / 4),
        ("all-reduce", tuple(range(8)), 2 * 80 * 7 / 8 / 8),
        # Between slices go the parts that each chip has after the reduction in its own.
        ("all-reduce", tuple(range(16)), 2 * 80 * 7 / 8 / 8 + 2 * (80 / 8) / 2 / 1),
        ("all-gather", tuple(range(16)), 80 * 7 / 8 / 8 + (80 / 8) / 2 / 1),
        ("all-to-all", (0, 8), 80 / 2 / 1),
        ("collective-permute", (0, 1), 80 / 2),
        ("collective-permute", (0, 8), 80 / 1),
        ("all-reduce", (5,), 0),
        (BETWEEN_SLICES, (), 2 * 80 / 2 / 1),
    ],
)
def test_seconds_of_a_collective(kind, group, seconds):
    assert collective_seconds(Collective(kind, group, 80, 1), CHIP, PLACES) == pytest.approx(seconds)


def test_roofline():
    twice = Collective("all-gather", (0, 1, 2, 3), 80, 2)
    line = roofline(CHIP, 1000.0, 200.0, [twice], PLACES)
    assert line == pytest.approx((10.0, 20.0, 30.0))
    assert line.efficiency == pytest.approx((20 / 50, 20 / 30))
    assert Roofline(10.0, 2.0, 5.0).efficiency == pytest.approx((10 / 15, 1))
