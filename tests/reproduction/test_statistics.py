import pytest

from benchmarks.reproduction.statistics import estimate, paired_difference


def test_the_interval_equals_hand_worked_numbers() -> None:
    # Mean 2, standard deviation 1; t of 2 degrees of freedom at 97.5 % is 4.302653; half width 4.302653 / sqrt(3).
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.seeds) == (2.0, 3)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)
    assert found.high == pytest.approx(2 + 2.484138, abs=1e-6)
    assert found.sign == 0
    assert str(found) == "+2.00 (-0.48 .. +4.48)"


def test_one_seed_has_no_interval_and_no_sign() -> None:
    found = estimate([0.5])
    assert (found.sign, str(found)) == (0, "+0.50")


def test_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to take a mean of"):
        estimate([])


def test_differences_are_paired_by_seed() -> None:
    # Seeds differ by far more than the arms: unpaired nothing would show. Differences 1, 1.1, 0.9; sd 0.1.
    arm, other = {0: 11.0, 1: 21.1, 2: 30.9, 9: 99.0}, {0: 10.0, 1: 20.0, 2: 30.0, 3: 40.0}
    found = paired_difference(arm, other)
    assert found is not None
    assert found.seeds == 3
    assert found.mean == pytest.approx(1.0)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / 3**0.5, abs=1e-6)
    assert found.sign == 1
    assert paired_difference(arm, {5: 1.0}) is None


@pytest.mark.parametrize(("values", "sign"), [([-3.0, -3.1, -2.9], -1), ([3.0, 3.1, 2.9], 1)])
def test_the_sign_says_on_which_side_of_zero_the_interval_lies(values: list[float], sign: int) -> None:
    assert estimate(values).sign == sign
