"""Progress as a batch system's log shows it."""

import pytest

from train import terminal
from train.terminal import Reporter


def test_a_log_hears_of_a_long_run_every_minute_and_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    with Reporter(main=True) as reporter:
        for done in range(1, 4001):  # 4000 steps of 25 s; one in 200 is said in any case
            now += 25
            reporter.advance("train", done, 4000, "loss 0.69")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "train 1/4000  loss 0.69",
        "train 4/4000  27 h 45 min left  loss 0.69",
        "train 7/4000  27 h 44 min left  loss 0.69",
    ]
    assert lines[-2:] == ["train 3998/4000  1 min left  loss 0.69", "train 4000/4000  loss 0.69"]
    assert len(lines) == pytest.approx(4000 / 3, abs=20)


def test_a_short_run_says_twenty_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(main=True) as reporter:
        for done in range(1, 101):
            reporter.advance("encode", done, 100)
    assert len(capsys.readouterr().err.splitlines()) == 21


def test_another_process_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(main=False) as reporter:
        reporter.advance("train", 1, 1)
    assert capsys.readouterr().err == ""
