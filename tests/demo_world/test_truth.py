"""The hidden truth likes a perfect drawing best and falls with every wrong word."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.demo_world.degrade import blur, from_image, to_image
from benchmarks.demo_world.drawing import encode
from benchmarks.demo_world.scenes import BACKGROUNDS, COLOURS, Scene, Thing, edit_scene, random_scene, render
from benchmarks.demo_world.truth import coverage_bank, judge_sampled_pairs, truth, win_rate
from schemas.tables import SAMPLED_PAIRS

SCENE = Scene((Thing("large", "red", "circle"), Thing("small", "blue", "square")), "above", "white")


def test_perfect_drawing_has_truth_zero() -> None:
    assert truth(render(SCENE), SCENE.caption) == pytest.approx(0.0, abs=2e-3)


def test_jittered_drawings_beat_drawings_of_an_edited_caption() -> None:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(100)]
    right = [truth(render(scene, rng), scene.caption) for scene in scenes]
    wrong = [truth(render(edit_scene(rng, scene), rng), scene.caption) for scene in scenes]
    assert min(right) > -0.07
    assert np.mean(np.array(right) > np.array(wrong)) > 0.97


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SCENE, background="black"),
        replace(SCENE, relation="below"),
        replace(SCENE, things=(Thing("large", "green", "circle"), SCENE.things[1])),
        replace(SCENE, things=(SCENE.things[0], Thing("large", "blue", "square"))),
        replace(SCENE, things=(Thing("large", "red", "ring"), SCENE.things[1])),
    ],
)
def test_truth_falls_with_any_wrong_word(wrong: Scene) -> None:
    assert truth(render(wrong), SCENE.caption) < -0.05 < truth(render(SCENE), SCENE.caption)


def test_truth_falls_with_blur() -> None:
    rng = np.random.default_rng(0)
    scores = [truth(blur(rng, render(SCENE), strength), SCENE.caption) for strength in (0.1, 0.4, 1.0)]
    assert scores == sorted(scores, reverse=True)


def test_truth_equals_the_distance_to_each_drawing_taken_in_turn() -> None:
    """The decomposition against the plain definition, for one thing."""
    scene = Scene((Thing("small", "green", "cross"),), None, "grey")
    picture = render(random_scene(np.random.default_rng(3)))
    bank, _ = coverage_bank("cross", 7.0, (32.0, 32.0))
    background, colour = BACKGROUNDS["grey"], COLOURS["green"]
    distances = []
    for coverage in bank:
        drawing = np.broadcast_to(background, (64, 64, 3)).copy()
        drawing[16:48, 16:48] += coverage.reshape(32, 32, 1) * (colour - background)
        distances.append(np.sqrt(np.square(picture - drawing).mean()))
    assert truth(picture, scene.caption) == pytest.approx(-min(distances), abs=1e-5)


def test_images_survive_eight_bits() -> None:
    picture = render(SCENE)
    assert np.abs(from_image(to_image(picture)) - picture).max() <= 0.5 / 255 + 1e-6


def test_win_rate_counts_a_tie_as_half() -> None:
    result = win_rate(np.array([[1.0, 0.0], [0.5, 0.5]]), ["a", "b"])
    assert (result.win_rate, result.pairs, result.prompts) == (0.75, 2, 2)
    assert result.ci_low <= 0.75 <= result.ci_high


def test_sampled_pairs_are_judged_from_their_pictures(tmp_path: Path) -> None:
    for name, scene in (("good", SCENE), ("bad", replace(SCENE, background="black"))):
        (tmp_path / f"{name}.png").write_bytes(encode(render(scene), seed=0))
    row = {
        "prompt": SCENE.caption,
        "image_0_uid": "good",
        "image_1_uid": "bad",
        "category": None,
        "image_0_path": "good.png",
        "image_1_path": "bad.png",
        "image_0_model": "trained",
        "image_1_model": "base",
        "seed": 1,
    }
    pq.write_table(pa.Table.from_pylist([row] * 3, schema=SAMPLED_PAIRS), tmp_path / "pairs.parquet")
    result = judge_sampled_pairs(tmp_path / "pairs.parquet")
    assert (result.win_rate, result.pairs, result.prompts) == (1.0, 3, 1)
    assert result.mean_0 > result.mean_1
