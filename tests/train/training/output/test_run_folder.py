from pathlib import Path

import pytest

from train.config import load_recipe
from train.errors import RunDirectoryError
from train.training.output.run_folder import begin, finished_summary, settings_of

SETTINGS = settings_of(load_recipe("demo"), ["aa"], latent_cache=True)
OTHER = settings_of(load_recipe("demo"), ["bb"], latent_cache=True)


def test_an_absent_folder_is_work_to_do(tmp_path: Path) -> None:
    assert finished_summary(tmp_path / "out", SETTINGS, resume=False) is None


def test_a_run_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    begin(tmp_path, SETTINGS, print)
    assert finished_summary(tmp_path, OTHER, resume=False) is None
    begin(tmp_path, OTHER, print)
    assert finished_summary(tmp_path, OTHER, resume=False) is None


def test_checkpoints_of_an_unknown_run_are_not_continued(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    with pytest.raises(RunDirectoryError) as caught:
        finished_summary(tmp_path, SETTINGS, resume=True)
    assert str(caught.value) == f"{tmp_path} holds checkpoints without run.json; name another --output, or remove it."


def test_other_shards_are_other_settings(tmp_path: Path) -> None:
    begin(tmp_path, SETTINGS, print)
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    with pytest.raises(RunDirectoryError) as caught:
        finished_summary(tmp_path, OTHER, resume=True)
    assert str(caught.value) == (
        f'{tmp_path} holds a run under other settings (shards_sha256: was ["aa"], now ["bb"]);'
        " name another --output, or remove it."
    )


def test_library_versions_do_not_stop_a_run(tmp_path: Path) -> None:
    begin(tmp_path, SETTINGS | {"versions": {"torch": "0"}}, print)
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    assert finished_summary(tmp_path, SETTINGS, resume=True) is None


def test_a_run_begun_before_it_said_whether_latents_are_cached_goes_on(tmp_path: Path) -> None:
    begin(tmp_path, {name: value for name, value in SETTINGS.items() if name != "latent_cache"}, print)
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    for latent_cache in (True, False):
        assert finished_summary(tmp_path, SETTINGS | {"latent_cache": latent_cache}, resume=True) is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", "3"])
def test_settings_that_are_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunDirectoryError) as caught:
        finished_summary(tmp_path, SETTINGS, resume=False)
    assert str(caught.value).startswith(f"{tmp_path / 'run.json'} is damaged (")
    assert str(caught.value).endswith("); name another --output.")
