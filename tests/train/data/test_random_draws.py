from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from train.config import Timesteps, load_recipe
from train.data.random_draws import Draw, PairOrder, draw, positions

DATA = replace(load_recipe("demo").data, flips=True, empty_prompt_probability=0.2)


def drawn(seed: int = 0, step: int = 0, position: int = 0, data: object = DATA) -> Draw:
    return draw(seed, step, position, pair=0, timesteps=1000, latent_shape=(4, 8, 8), data=data)  # type: ignore[arg-type]


def same(one: Draw, other: Draw) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_a_draw_is_the_same_whatever_was_drawn_before() -> None:
    straight = drawn(step=7, position=3)
    for step in range(5):
        drawn(step=step)
    np.random.default_rng(1).random()
    assert same(straight, drawn(step=7, position=3))


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 1}, {"position": 1}])
def test_seed_step_and_position_each_change_the_draw(other: dict[str, int]) -> None:
    assert not np.array_equal(drawn().noise, drawn(**other).noise)


def test_flips_off_and_prompts_kept_change_nothing_else() -> None:
    plain = replace(DATA, flips=False, empty_prompt_probability=0.0)
    for step in range(20):
        one, other = drawn(step=step), drawn(step=step, data=plain)
        assert not other.flipped
        assert not other.prompt_dropped
        assert same(replace(one, flipped=False, prompt_dropped=False), other)


def test_shares_are_as_asked_for() -> None:
    draws = [drawn(step=step) for step in range(2000)]
    assert np.mean([one.flipped for one in draws]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([one.prompt_dropped for one in draws]) == pytest.approx(0.2, abs=0.03)
    timesteps = [one.timestep for one in draws]
    assert (min(timesteps) < 10, max(timesteps) > 990, max(timesteps) <= 999) == (True, True, True)
    assert np.mean(timesteps) == pytest.approx(499.5, abs=20)


@given(st.integers(0, 2**40), st.integers(1, 50), st.integers(0, 4))
def test_an_epoch_takes_each_pair_once(seed: int, count: int, epoch: int) -> None:
    order = PairOrder(seed, count)
    taken = [order.pair_at(epoch * count + place) for place in range(count)]
    assert sorted(taken) == list(range(count))


def test_epochs_and_seeds_have_their_own_order() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [PairOrder(seed, 40).pair_at(epoch * 40 + place) for place in range(40)]

    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_curriculum_goes_down_or_up_the_ranking_in_every_epoch() -> None:
    for kind, expected in (("ranked", [0, 1, 2, 0, 1]), ("reversed", [2, 1, 0, 2, 1])):
        order = PairOrder(7, 3, kind)  # type: ignore[arg-type]
        assert [order.pair_at(index) for index in range(5)] == expected


def test_weighted_draws_follow_the_weights_and_replay() -> None:
    weights = np.array([0.0, 1.0, 3.0])
    order = PairOrder(0, 3, "weighted", weights)
    taken = [order.pair_at(index) for index in range(4000)]
    assert np.bincount(taken, minlength=3) / 4000 == pytest.approx([0, 0.25, 0.75], abs=0.03)
    assert taken[100:110] == [PairOrder(0, 3, "weighted", weights).pair_at(index) for index in range(100, 110)]
    assert taken != [PairOrder(1, 3, "weighted", weights).pair_at(index) for index in range(4000)]


def test_validation_draws_are_of_a_stream_of_their_own() -> None:
    one = draw(0, 0, 0, pair=0, timesteps=1000, latent_shape=(4, 8, 8), data=DATA, validation=True)
    assert not np.array_equal(one.noise, drawn().noise)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5))
def test_processes_and_micro_steps_share_a_batch_without_loss(batch: int, micro: int, processes: int) -> None:
    shares = [positions(batch, micro, rank, processes) for rank in range(processes)]
    taken = [position for share in shares for micro_step in share for position in micro_step]
    assert sorted(taken) == list(range(batch))
    assert all(len(micro_step) <= micro for share in shares for micro_step in share)


def test_timesteps_follow_their_law() -> None:
    def shares(**law: object) -> np.ndarray:
        data = replace(DATA, timesteps=Timesteps(**law))  # type: ignore[arg-type]
        return np.array([drawn(step=step, data=data).timestep for step in range(3000)]) / 1000

    normal = shares(law="logit-normal", mean=0.5, deviation=0.8)
    logits = np.log((normal + 0.0005) / (1 - normal - 0.0005))
    assert (logits.mean(), logits.std()) == pytest.approx((0.5, 0.8), abs=0.05)
    assert np.median(shares(shift=3.0)) == pytest.approx(0.75, abs=0.02)  # 3 u / (1 + 2 u) at u = 1/2
    within = shares(least=0.2, most=0.4)
    assert within.min() >= 0.2
    assert within.max() < 0.4
    assert within.mean() == pytest.approx(0.3, abs=0.01)
    assert set(shares(only=(100, 900)).tolist()) == {0.1, 0.9}
    assert shares(least=0.999, most=1.0).max() == 0.999
