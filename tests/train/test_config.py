from pathlib import Path
from typing import Any

import pytest

from train.config import Lora, flat, load_recipe, preset_names
from train.errors import SettingsError


def refused(*, preset: str = "demo", toml: str | None = None, path: Path | None = None, **flags: Any) -> str:
    if toml is not None and path is not None:
        path.write_text(toml)
    with pytest.raises(SettingsError) as caught:
        load_recipe(preset, path, flags)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_every_preset_loads() -> None:
    assert preset_names() == [
        "demo",
        "sd15",
        "sd15-lora",
        "sd15-selection",
        "sd3",
        "sdxl",
        "sdxl-lora",
        "sdxl-selection",
    ]
    for name in preset_names():
        assert load_recipe(name).model


def test_the_published_recipes_are_stated_in_pairs() -> None:
    for name, warmup in (("sd15", 500), ("sdxl", 200)):
        recipe = load_recipe(name)
        assert (recipe.objective.beta, recipe.run.batch_pairs, recipe.run.steps) == (5000, 2048, 2000)
        assert recipe.optimizer.learning_rate == pytest.approx(1e-8 * recipe.run.batch_pairs)
        assert recipe.optimizer.warmup_steps == warmup
        assert recipe.data.empty_prompt_probability == 0.2


def test_the_lora_recipes_are_those_of_diffusers_in_our_beta() -> None:
    """Their scripts' defaults are 2500 without the factor 1/2 (SD1.5), and 5000 with it (SDXL)."""
    for name, batch, steps in (("sd15-lora", 32, 10000), ("sdxl-lora", 16, 2000)):
        recipe = load_recipe(name)
        assert (recipe.objective.beta, recipe.run.batch_pairs, recipe.run.steps) == (5000, batch, steps)
        assert (recipe.lora, recipe.optimizer.learning_rate) == (Lora(rank=8, init="gaussian"), 1e-5)


def test_sdxl_is_told_what_each_published_script_tells_it() -> None:
    """The official trainer: one size for all and "" encoded; diffusers': each picture's own size, no empty prompts."""
    told = {name: load_recipe(name).data for name in ("sdxl", "sdxl-lora")}
    assert [(one.sdxl_sizes, one.empty_prompts) for one in told.values()] == [
        ("resolution", "encoded"),
        ("own", "pipeline"),
    ]
    assert told["sdxl-lora"].empty_prompt_probability == 0


def test_what_sets_beta_needs_an_objective_with_a_margin() -> None:
    auto = load_recipe("demo", None, {"objective": {"beta": "auto", "beta_aim": 0.3}}).objective
    assert (auto.beta, auto.beta_aim) == ("auto", 0.3)
    assert load_recipe("demo", None, {"objective": {"beta": 7}}).objective.beta == 7.0
    assert refused(objective={"name": "mapo", "beta": "auto"}) == (
        "`mapo` has no margin that a beta could scale; leave out what sets it."
    )
    assert refused(objective={"name": "sft", "beta_by": "quality"}).startswith("`sft` has no margin")
    assert refused(objective={"beta_aim": 0.3}) == (
        '`objective.beta_aim` and `beta_most` are read with `objective.beta = "auto"` only.'
    )
    assert refused(objective={"beta": "some"}) == "`objective.beta` is 'some'; it must be of type float or auto."


def test_safeguards_that_have_nothing_to_hold_are_refused() -> None:
    assert refused(objective={"name": "sft", "preserve_winner": 0.9}) == (
        "`objective.preserve_winner` scales the rejected image; sft has none."
    )
    assert refused(objective={"reference": "ema"}, run={"fsdp": True}) == (
        '`objective.reference = "ema"` and `run.fsdp` do not go together; leave one out.'
    )
    assert refused(optimizer={"lora_b_ratio": 16.0}) == (
        "`optimizer.lora_b_ratio` is for a LoRA, and the recipe has none; add --lora-rank."
    )
    assert refused(data={"timesteps": {"least": 0.9, "most": 0.2}}) == (
        "`data.timesteps.least` must be below `data.timesteps.most`."
    )
    assert refused(data={"timesteps": {"only": [-1]}}) == "`data.timesteps.only` is -1; it must be at least 0."
    assert refused(data={"timesteps": {"mode": 1}}) == (
        "the command line: there is no setting `data.timesteps.mode`; the nearest is `data.timesteps.most`."
    )


def test_keys_that_the_objective_does_not_read_are_refused() -> None:
    assert refused(objective={"label_smoothing": 0.2}) == (
        "`objective.label_smoothing` is read by cdpo and dmpo only, not by dpo."
    )
    assert refused(objective={"name": "ipo", "offset_by": "quality"}) == (
        "`objective.offset_by` is read by dpo only, not by ipo."
    )
    assert load_recipe("demo", None, {"objective": {"name": "cdpo", "label_smoothing": 0.2}}).objective.name == "cdpo"
    assert refused(objective={"name": "cdpo", "label_smoothing": 0.7}) == (
        "`objective.label_smoothing` must lie between 0 and 0.5; it is 0.7."
    )
    assert refused(objective={"label_smoothing_by": "strength"}) == (
        "`objective.label_smoothing_by` is read by cdpo and dmpo only, not by dpo."
    )
    assert refused(objective={"name": "cdpo", "label_smoothing_by": "strength", "label_smoothing": 0.2}) == (
        "`objective.label_smoothing_by` stands instead of `objective.label_smoothing`; set one."
    )


def test_a_preset_for_selections_is_the_published_one_but_shorter() -> None:
    for name, warmup in (("sd15", 25), ("sdxl", 11)):
        published, shorter = (flat(load_recipe(preset).as_table()) for preset in (name, f"{name}-selection"))
        assert {key: shorter[key] for key in shorter if shorter[key] != published[key]} == {
            "optimizer.warmup_steps": warmup, "run.max_epochs": 5.0, "run.checkpoint_every_steps": 25,
        }  # fmt: skip


def test_a_file_wins_over_the_preset_and_flags_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[objective]\nbeta = 7\n[run]\nsteps = 9\n")
    recipe = load_recipe("sd15", path, {"run": {"steps": 11}})
    assert (recipe.objective.beta, recipe.run.steps, recipe.run.batch_pairs) == (7.0, 11, 2048)


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf[run]\nsteps = 7\n")
    assert load_recipe("demo", tmp_path / "mine.toml").run.steps == 7


def test_a_rank_makes_it_a_lora() -> None:
    assert load_recipe("demo").lora is None
    assert load_recipe("demo", None, {"lora": {"rank": 4}}).lora == Lora(rank=4)


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    presets = "demo, sd15, sd15-lora, sd15-selection, sd3, sdxl, sdxl-lora, sdxl-selection"
    assert refused(preset="sd14") == f"There is no preset `sd14`; the presets are {presets}."
    assert refused(toml="[run]\nstep = 3\n", path=path) == (
        f"{path}: there is no setting `run.step`; the nearest is `run.steps`."
    )
    assert refused(toml="[optimiser]\n", path=path) == (
        f"{path}: there is no setting `optimiser`; the nearest is `optimizer`."
    )


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert refused(path=path) == f"{path} cannot be read: No such file or directory."
    assert refused(toml="steps 3", path=path).startswith(f"{path} is not TOML: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"run": {"micro_batch_pairs": "some"}}, "`run.micro_batch_pairs` is 'some'; it must be of type int or auto."),
        ({"run": {"micro_batch_pairs": 0}}, "`run.micro_batch_pairs` is 0; it must be at least 1."),
        ({"run": {"gradient_checkpointing": 1}}, "`run.gradient_checkpointing` is 1; it must be of type bool or auto."),
        ({"run": {"steps": "3"}}, "`run.steps` is '3'; it must be of type int."),
        ({"run": {"steps": True}}, "`run.steps` is True; it must be of type int."),
        ({"run": {"steps": 0}}, "`run.steps` is 0; it must be at least 1."),
        ({"run": 3}, "`run` is a section with keys, not 3."),
        ({"run": {"seed": -1}}, "`run.seed` is -1; it must be at least 0."),
        ({"objective": {"beta": float("nan")}}, "`objective.beta` is nan; it must be at least 0."),
        (
            {"objective": {"name": "ppo"}},
            "`objective.name` is 'ppo'; it must be one of dpo, cdpo, ipo, slic-hf, dspo, dmpo,"
            " alpha, gce, linear, orpo, mapo, sft.",
        ),
        ({"run": {"mixed_precision": "fp8"}}, "`run.mixed_precision` is 'fp8'; it must be one of no, fp16, bf16."),
        ({"optimizer": {"betas": [0.9]}}, "`optimizer.betas` holds 1 values; it must hold 2."),
        ({"optimizer": {"betas": 0.9}}, "`optimizer.betas` is 0.9; it must be a list."),
        ({"lora": {"alpha": 4}}, "The setting `lora.rank` has no value."),
        (
            {"optimizer": {"betas": [0.9, 1.0]}},
            "`optimizer.betas` must lie between 0 and 1, and below 1; they are (0.9, 1.0).",
        ),
        ({"optimizer": {"epsilon": -1e-8}}, "`optimizer.epsilon` is -1e-08; it must be at least 0."),
        ({"optimizer": {"weight_decay": -1.0}}, "`optimizer.weight_decay` is -1; it must be at least 0."),
        ({"lora": {"rank": 0}}, "`lora.rank` is 0; it must be at least 1."),
        ({"lora": {"rank": 2, "alpha": 0}}, "`lora.alpha` is 0; it must be at least 1."),
        (
            {"data": {"empty_prompt_probability": 1.5}},
            "`data.empty_prompt_probability` must lie between 0 and 1; it is 1.5.",
        ),
    ],
)
def test_values_are_checked(flags: dict[str, Any], message: str) -> None:
    assert refused(**flags) == message
