"""What is said of a series of measurements is true of it."""

from __future__ import annotations

import pytest

from tests.integration.footprint import Footprint
from tests.soak.growth import SETTLING, Sample, growth, settled, table

HELD = Footprint(20, 1, 0)


def series(*resident: float) -> list[Sample]:
    return [Sample(10 * number, memory, HELD) for number, memory in enumerate(resident)]


def test_steady_growth_is_found_to_the_byte() -> None:
    samples = series(*(30 + number / 4 for number in range(21)))
    counted = settled(samples)
    assert growth(samples) == pytest.approx((len(counted) - 1) / 4)


def test_what_fills_up_in_the_beginning_is_no_growth() -> None:
    assert growth(series(*range(8), *[8.0] * 12)) == pytest.approx(0.0)
    assert len(settled(series(*range(20)))) == 20 - int(20 * SETTLING) - 1


def test_noise_is_little_growth_where_the_first_and_the_last_sample_say_otherwise() -> None:
    noisy = series(*[30.0, 31.0] * 10, 30.0, 33.0)
    counted = settled(noisy)
    assert abs(growth(noisy)) < abs(counted[-1].resident - counted[0].resident)


@pytest.mark.parametrize("samples", [[], series(30.0), [Sample(5, 30.0, HELD), Sample(5, 31.0, HELD)]])
def test_one_moment_shows_nothing_and_is_refused(samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="samples show no growth"):
        growth(samples)


def test_the_table_has_a_row_for_each_kind() -> None:
    samples = {"server": series(30.0, 32.0, 31.0), "supervisor": series(27.0, 27.0, 27.0)}
    rows = table(samples, {"server": -1.0, "supervisor": 0.0}).splitlines()[2:]
    assert rows == [
        "| server | 20 | 30.0 | 30.0 | 32.0 | 31.0 | -1.00 | 20 | 1 | 0 |",
        "| supervisor | 20 | 27.0 | 27.0 | 27.0 | 27.0 | +0.00 | 20 | 1 | 0 |",
    ]
