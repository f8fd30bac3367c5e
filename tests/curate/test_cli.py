"""The command line as a user meets it: help, defaults, exit codes, one sentence on stderr, data on stdout."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main

from curate import cli
from curate.sources.manifest import load_manifest
from curate.storage.run import Run
from tests.curate.builders import MODELS, Outcome, pair_row, write_pairs
from tests.demo import ROOT

Curate = Callable[..., Outcome]
GROUP: Any = typer.main.get_command(cli.app)  # Typer's own copy of click carries no public types
COMMANDS: dict[str, Any] = GROUP.commands
TOP = "give a fraction above 0 and at most 1.0, such as 0.0533, or a whole number of pairs"


def options_of(command: Any) -> set[str]:
    return {name for param in command.params for name in param.opts if name.startswith("--")}


def example_of(command: Any) -> str:
    return command.help.partition("Example: ")[2].strip()


def embed_arguments(source: object) -> list[object]:
    return ["embed", "--manifest", "pickapic_v2", "--models", MODELS, "--source", source, "--device", "cpu"]


def expect(outcome: Outcome, code: int, message: str) -> None:
    """An expected failure: this one sentence on stderr, nothing on stdout."""
    assert outcome == Outcome(code, "", f"curate: {message}\n")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over twenty pairs; copy it before changing it."""
    folder = tmp_path_factory.mktemp("finished")
    source = write_pairs(folder / "train-0.parquet", (pair_row(i) for i in range(20)))
    cli.app([*map(str, embed_arguments(source)), "--run", str(folder / "run")], standalone_mode=False)
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_commands() -> None:
    assert set(COMMANDS) == {
        *("embed", "status", "fetch", "rank", "metrics", "diff", "export-shards", "export-for", "verify"),
        *("inspect", "sql", "search", "show", "score", "report", "browse", "compare", "review"),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_one_sentence_and_one_example(name: str) -> None:
    sentence, _, example = COMMANDS[name].help.partition("\n\nExample: ")
    assert re.fullmatch(r"[A-Z][^.\n]*\.", sentence)
    assert f"{example} ".startswith(f"curate {name} ")
    assert "\n" not in example


@pytest.mark.parametrize("name", COMMANDS)
def test_example_parses(name: str) -> None:
    program, command, *arguments = shlex.split(example_of(COMMANDS[name]))
    assert (program, command) == ("curate", name)
    assert {word for word in arguments if word.startswith("--")} <= options_of(COMMANDS[name])
    COMMANDS[name].make_context(name, arguments)


def test_examples_name_manifests_that_exist() -> None:
    words = shlex.split(example_of(COMMANDS["embed"]))
    assert load_manifest(words[words.index("--manifest") + 1]).name == "pickapic_v2"


@pytest.mark.parametrize("name", COMMANDS)
def test_at_most_a_dozen_options(name: str) -> None:
    """Of `rank` a dozen beside its five filters, its five limits and help: each is asked for by its own name.

    Of `embed` a dozen beside those of where and in which parts it runs, how it decodes and what it measures, and
    those of sets in other layouts. Of `export-shards` a dozen beside `--source` and `--dry-run`.
    """
    assert len(options_of(COMMANDS[name])) <= {"rank": 24, "embed": 25, "export-shards": 14}.get(name, 12)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_and_shows_its_default(name: str, curate: Curate) -> None:
    outcome = curate(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    text = " ".join(outcome.out.split())
    for param in COMMANDS[name].params:
        assert param.help.endswith((".", "]")), param.name
        if param.default not in (None, False) and param.name != "help":
            assert f"default: {param.default}" in text, param.name
    assert "default: None" not in text


def test_help_fits_eighty_columns_with_examples_whole(curate: Curate) -> None:
    for name, command in COMMANDS.items():
        lines = curate(name, "--help").out.splitlines()
        assert max(map(len, lines)) <= 80
        assert f"  Example: {example_of(command)}" in lines


def test_overview_lists_each_command_with_a_whole_sentence(curate: Curate) -> None:
    text = curate("--help").out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z][^.]+\.$", text, re.MULTILINE), name


def test_the_version_and_the_short_help(curate: Curate) -> None:
    assert curate("--version") == Outcome(0, f"pairsieve {version('pairsieve')}\n", "")
    assert curate("-h") == curate("--help")
    for name in (*COMMANDS, "metrics check"):
        assert curate(*name.split(), "-h").code == 0


def test_options_stand_in_groups_with_what_matters_first(curate: Curate) -> None:
    text = curate("rank", "--help").out
    for command in COMMANDS.values():
        assert set(getattr(command.callback, "option_groups", {})) <= {param.name for param in command.params}
    places = [text.index(f"\n  --{name} ") for name in ("top", "psi-norm", "max-nsfw", "max-per-prompt")]
    titles = [text.index(f"\n{title}:\n") for title in ("The metric", "Which pairs are ranked")]
    assert sorted([*places, *titles]) == [places[0], titles[0], places[1], titles[1], *places[2:]]


@pytest.mark.parametrize("name", ["curate", "train"])
def test_python_m_is_the_command_and_completes_names(name: str) -> None:
    environment = os.environ | {
        f"_{name.upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": f"{name} {'ran' if name == 'curate' else 'sam'}",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-m", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["rank" if name == "curate" else "sample"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "--bogus"], "Error: No such option: --bogus"),
        (["rnk"], "Error: No such command 'rnk'."),
        (["sql", "select 1", "extra"], "Error: Got unexpected extra argument(s) (extra)"),
        (["embed", "--batch"], "Error: Option '--batch' requires an argument."),
        (["embed", "--calibrate", "31"], "Error: Invalid value for '--calibrate': "),
        (["embed", "--parity", "1"], "Error: Invalid value for '--parity': "),
        (["embed", "--part-images", "1.5"], "Error: Invalid value for '--part-images': "),
        (["compare", "--gallery", "-1"], "Error: Invalid value for '--gallery': "),
        (["rank", "extra"], "Error: Got unexpected extra argument(s) (extra)"),
    ],
)
def test_wrong_usage_is_one_unwrapped_line(curate: Curate, arguments: list[str], message: str) -> None:
    outcome = curate(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines()[-1].startswith(message)
    assert outcome.err.startswith(("Usage: curate ", message))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--manifest", "pickapic_v3"],
            "no bundled manifest is named 'pickapic_v3'; did you mean 'pickapic_v2'?; a file's name ends in .toml",
        ),
        (
            ["--manifest", "generic"],
            "--manifest generic is a template to copy, and no data set; `curate inspect DATA --write my_pairs.toml` "
            "writes one for your data",
        ),
        (["--split", "tain"], "manifest 'pickapic_v2' has no split 'tain'; did you mean 'train'?"),
        (["--models", "publishd"], "no set of models is named 'publishd'; did you mean 'published'?"),
        (
            ["--models", "published", "--scorers", "clip,pikscore"],
            "the models 'published' have no scorer 'pikscore'; did you mean 'pickscore'?",
        ),
        (["--scorers", "clip,clip"], "--scorers names one twice: clip,clip"),
        (
            ["--models", "published", "--scorers", ","],
            "--scorers names none; known: aesthetic, clip, hpsv2, image_reward, nsfw, nsfw_words, pickscore",
        ),
        (["--precision", "fp8"], "--precision fp8: choose auto, fp32, bf16, fp16"),
        (["--batch", "0"], "--batch 0: give auto, or a whole number of pictures from 1 up"),
        (["--decode", "turbo"], "--decode turbo: choose pillow, scaled, nvjpeg"),
        (
            ["--decode", "nvjpeg"],
            "--decode nvjpeg needs a CUDA device, and this run is on cpu; use pillow or scaled",
        ),
    ],
)
def test_embed_refuses(curate: Curate, source_file: Path, arguments: list[str], message: str) -> None:
    outcome = curate(*embed_arguments(source_file), *arguments, "--run", source_file.parent / "run")
    expect(outcome, 1 if message.startswith("no ") else 2, message)
    assert not (source_file.parent / "run").exists()


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)"


def driver_too_old() -> None:
    raise RuntimeError(f"{TOO_OLD}. Please update your GPU driver by downloading and installing a new version")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", f"--device cuda: torch sees 0 CUDA devices here ({TOO_OLD}); use --device cpu, or one of them"),
        ("cuda:1", "--device cuda:1: torch sees 1 CUDA devices here; use --device cpu, or one of them"),
        ("gpu", "--device gpu: choose auto, cpu, cuda or cuda:N"),
        ("cpu:0", "--device cpu:0: choose auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there(
    curate: Curate, source_file: Path, monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0 if device == "cuda" else 1)
    monkeypatch.setattr("torch.cuda.init", driver_too_old)
    expect(curate(*embed_arguments(source_file), "--device", device), 2, message)


def test_a_driver_that_is_too_old_is_not_a_machine_without_gpu(
    curate: Curate, source_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days on the CPU, for want of one line."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.init", driver_too_old)
    message = f"--device auto: {TOO_OLD}; mend that, install a torch for it, or say --device cpu"
    expect(curate("embed", "--manifest", "pickapic_v2", "--source", source_file), 2, message)


def test_data_is_no_manifest(curate: Curate, tmp_path: Path) -> None:
    data = tmp_path / "pairs.csv"
    data.write_text("prompt,chosen,rejected\n")
    for given in (data, tmp_path):
        expect(
            curate("embed", "--manifest", given),
            1,
            f"{given} is no manifest; if it is your data, `curate inspect {given} --write my_pairs.toml` writes one",
        )


def test_no_file_matches(curate: Curate, tmp_path: Path) -> None:
    expect(
        curate("embed", "--manifest", "pickapic_v2", "--source", tmp_path / "x-*.parquet"),
        1,
        f"no file matches {tmp_path}/x-*.parquet; correct --source or the manifest's files",
    )


def test_dry_run_prints_settings_and_counts_and_writes_nothing(curate: Curate, source_file: Path) -> None:
    outcome = curate(*embed_arguments(source_file), "--dry-run", "--run", source_file.parent / "run")
    report = json.loads(outcome.out)
    assert outcome.code == 0
    assert report["manifest"] == load_manifest("pickapic_v2").settings()
    assert (report["split"], report["files"]) == ("train", [str(source_file)])
    assert report["scorers"] == ["clip", "pickscore", "aesthetic"]
    assert 21 * 1_000 < report["image_bytes"] < 21 * 3_000
    counts = ("source_rows", "pairs", "dropped_pairs", "prompts", "images", "parts")
    assert [report[key] for key in counts] == [20, 20, {}, 5, 21, 1]
    assert not (source_file.parent / "run").exists()


def test_bundled_demo_says_so(curate: Curate, source_file: Path) -> None:
    outcome = curate("embed", "--source", source_file, "--dry-run")
    assert outcome.err == (
        "data set: the bundled demo, a miniature world of coloured shapes (--manifest names another)\n"
    )
    assert json.loads(outcome.out)["models"] == "demo"


def test_embed_reports_sums_and_json(curate: Curate, source_file: Path, tmp_path: Path) -> None:
    outcome = curate(*embed_arguments(source_file), "--run", tmp_path / "run", "--part-images", 8)
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "rows    20 = 20 pairs",
        "images  21 = 21 scored",
        "scores  25 (prompt, image) by clip, pickscore, aesthetic; 5 prompts",
    ]
    assert re.search(r"scorers clip, pickscore, aesthetic, on CPU, \d+ threads, fp32", outcome.err)
    again = curate(*embed_arguments(source_file), "--run", tmp_path / "run", "--part-images", 8, "--json")
    report = json.loads(again.out)
    assert (report["parts"], report["parts_computed"]) == (4, 0)
    assert f"{tmp_path}/run holds parts of this run; the sound ones are kept" in again.err


def test_a_part_range_says_what_is_left(curate: Curate, source_file: Path, tmp_path: Path) -> None:
    arguments = [*embed_arguments(source_file), "--run", tmp_path / "run", "--part-images", 5]
    outcome = curate(*arguments, "--part-range", "1:3")
    assert outcome.code == 0
    assert outcome.out == (
        "parts   2 computed, 2 of 4 left, the first is part-00000; other processes may be at them, "
        "`curate embed` without --part-range finishes the run\n"
    )
    assert curate("rank", "--run", tmp_path / "run").code == 1
    assert json.loads(curate(*arguments, "--json").out)["parts_computed"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part-range", "3:1"], "--part-range 3:1: give A:B with A below B: parts A to B - 1, counted from 0"),
        (["--part-range", "3"], "--part-range 3: give A:B with A below B: parts A to B - 1, counted from 0"),
        (["--engine", "slurm"], "--engine slurm: choose local or ray"),
        (["--address", "here:1"], "--address is for --engine ray"),
    ],
)
def test_impossible_places(curate: Curate, source_file: Path, tmp_path: Path, options: list[str], message: str) -> None:
    expect(curate(*embed_arguments(source_file), "--run", tmp_path / "run", *options), 2, message)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["rank"], ["sql", "select 1"], ["report"], ["export-shards"], ["compare"], ["review"], ["search", "a"]),
        *(["diff", "a", "b"], ["browse"], ["metrics", "check", "m.sql"], ["fetch", "s3://bucket/other"]),
        *(["verify", "shards"], ["export-for", "folders"]),
    ],
)
def test_what_needs_a_folder_says_how_to_get_one(curate: Curate, arguments: list[str]) -> None:
    expect(
        curate(*arguments, "--run", "s3://bucket/runs/pick a pic/"),
        2,
        "--run s3://bucket/runs/pick a pic/: this command needs a folder; "
        "`curate fetch 's3://bucket/runs/pick a pic' --run 'pick a pic'` brings the run here",
    )


@pytest.mark.parametrize("command", ["embed", "status"])
def test_a_url_that_nothing_reads(curate: Curate, command: str) -> None:
    outcome = curate(command, "--run", "nowhere://bucket/run")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "curate: nowhere://bucket/run: Protocol not known: nowhere\n"


def test_a_file_url_is_the_folder(curate: Curate, run: Path) -> None:
    assert json.loads(curate("status", "--run", f"file://{run}", "--json").out)["run"] == str(run)
    assert curate("sql", "select count(*) as n from pairs", "--run", f"file://{run}", "--csv").out == "n\n20\n"
    expect(
        curate("fetch", f"file://{run}", "--run", run.parent / "other"),
        2,
        f"file://{run} is a folder of this machine; give it to --run as it is",
    )


@pytest.mark.parametrize(
    ("option", "value", "difference"),
    [
        ("--part-images", 7, "part_images was 4096, now 7"),
        ("--decode", "scaled", "decode was 'pillow', now 'scaled'"),
        ("--scorers", "clip", "models.towers.pickscore was "),
        ("--manifest", "pickapic_v1", "manifest.name was 'pickapic_v2', now 'pickapic_v1'"),
    ],
)
def test_run_made_under_other_settings(curate: Curate, run: Path, option: str, value: object, difference: str) -> None:
    source = next(iter(Run(run).settings()["settings"]["files"]))
    outcome = curate(*embed_arguments(source), "--run", run, option, value)
    assert (outcome.code, outcome.out) == (1, "")
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"curate: {run} was made under other settings: {difference}")
    assert last.endswith(f"; use another --run, or delete {run}")


@pytest.mark.parametrize("top", ["0", "0.0", "2.5", "-1", "-0.5", "abc", "nan", "inf", "1e3", "", "50%"])
def test_impossible_top(curate: Curate, run: Path, top: str) -> None:
    expect(curate("rank", "--run", run, "--top", top), 2, f"--top {top}: {TOP}")
    assert not (run / "rankings").exists()


def test_more_than_there_are(curate: Curate, run: Path) -> None:
    expect(
        curate("rank", "--run", run, "--top", "21"),
        2,
        "--top 21: only 20 pairs are ranked; give at most that, or 1.0 for all",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--metric", "qds"],
            2,
            "no metric 'qds'; did you mean 'qsd'?; a file of your own ends in .sql",
        ),
        (["--metric", "none.sql"], 2, "the metric none.sql cannot be read: No such file or directory"),
        (
            ["--psi", "hpsv2"],
            2,
            "--psi: the run has no scorer 'hpsv2'; known: aesthetic, clip, pickscore; "
            "`curate embed --scorers` adds it, in a new run",
        ),
        (["--psi", "clip=x"], 2, "--psi clip=x: 'x' is not a number; write SCORER=WEIGHT"),
        (["--psi-norm", "rank"], 2, "--psi-norm rank: unknown; known: minmax, percentile, raw"),
        (["--name", "a b"], 2, "a b: the name of a ranking has letters, digits and _ only, and no digit first"),
    ],
)
def test_rank_refuses(curate: Curate, run: Path, arguments: list[str], code: int, message: str) -> None:
    expect(curate("rank", "--run", run, *arguments), code, message)


BEFORE = [["rank"], ["export-shards"], ["export-for", "folders"], ["sql", "select 1"], ["search", "fox"], ["compare"]]


@pytest.mark.parametrize("command", BEFORE)
def test_before_embed(curate: Curate, tmp_path: Path, command: list[str]) -> None:
    run = tmp_path / "none"
    expect(curate(*command, "--run", run), 1, f"no run in {run}; run `curate embed --run {run}` first")
    assert not run.exists()


@pytest.mark.parametrize("command", [["rank"], ["sql", "select 1"], ["search", "fox"], ["compare"]])
def test_after_a_killed_embed(curate: Curate, run: Path, command: list[str]) -> None:
    (run / "embed.json").unlink()
    expect(
        curate(*command, "--run", run),
        1,
        f"`curate embed` has not finished in {run}; run it again, it goes on where it stopped",
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_after_a_damaged_embed(curate: Curate, run: Path, text: str) -> None:
    (run / "embed.json").write_text(text)
    stopped = curate("rank", "--run", run)
    assert stopped.code == 1
    assert f"{run}/embed.json is damaged (" in stopped.err
    assert stopped.err.endswith("); run `curate embed` again\n")


@pytest.mark.parametrize("command", [["export-shards"], ["export-for", "folders"]])
def test_export_before_rank(curate: Curate, run: Path, command: list[str]) -> None:
    expect(
        curate(*command, "--run", run),
        1,
        f"no ranking 'default' in {run}; there is none; run `curate rank` first",
    )


def test_run_directory_from_the_environment(curate: Curate, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRSIEVE_RUN", str(run))
    assert curate("rank", "--top", "5").code == 0
    assert (run / "rankings" / "default.parquet").exists()
    assert json.loads(curate("sql", "select count(*) as n from ranking where selected", "--json").out) == [{"n": 5}]


def count_of_pairs(curate: Curate) -> tuple[str, str]:
    outcome = curate("sql", "select count(*) as n from pairs", "--csv")
    assert outcome.code == 0, outcome.err
    return outcome.out, outcome.err


def test_the_run_is_found_from_where_one_stands(curate: Curate, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = "n\n20\n"
    monkeypatch.chdir(run.parent)
    assert count_of_pairs(curate) == (counted, "")
    for inside in (run, run / "parts"):
        monkeypatch.chdir(inside)
        assert count_of_pairs(curate) == (counted, f"run: {run} (--run names another)\n")
    (run.parent / "notes").mkdir()
    monkeypatch.chdir(run.parent / "notes")
    assert count_of_pairs(curate) == (counted, f"run: {run} (--run names another)\n")
    assert json.loads(curate("status", "--json").out)["run"] == str(run)
    below = run.parent / "notes" / "run" / "first"
    shutil.copytree(run, below)
    assert count_of_pairs(curate) == (counted, "run: run/first (--run names another)\n")
    shutil.copytree(run, below.parent / "second")  # of two in `run` neither is meant
    assert count_of_pairs(curate) == (counted, f"run: {run} (--run names another)\n")
    expect(
        curate("rank", "--run", "ran"),
        1,
        "no run in ran; run `curate embed --run ran` first; near it are run/first, run/second",
    )


def test_where_a_run_is_made_none_is_found(curate: Curate, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that differ would name the run that was found."""
    monkeypatch.chdir(run)
    source = next(iter(Run(run).settings()["settings"]["files"]))
    assert curate(*embed_arguments(source), "--part-images", 7).code == 0
    assert Run(run / "run").is_begun()


def test_json_is_one_document_on_stdout(curate: Curate, run: Path) -> None:
    ranked = json.loads(curate("rank", "--run", run, "--top", "0.5", "--json").out)
    assert (ranked["base_pairs"], ranked["selected_pairs"], ranked["top"]) == (20, 10, "0.5")
    exported = json.loads(curate("export-shards", "--run", run, "--json").out)
    assert exported["pairs"] == 10
    compared = json.loads(curate("compare", "--run", run, "--json").out)
    assert (compared["model"], compared["against"], compared["pairs"]) == ("alpha", "beta", 20)


def test_one_form_of_output(curate: Curate, run: Path) -> None:
    expect(
        curate("sql", "select 1", "--csv", "--json", "--run", run),
        2,
        "give one of --csv, --json and --parquet",
    )


def test_unexpected_failure_keeps_its_traceback(curate: Curate, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("curate.rank.rank", broken)
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        curate("rank", "--run", run)


def test_message_reaches_a_pipe_unwrapped_and_unstyled(tmp_path: Path) -> None:
    """A narrow terminal's width, brackets and emoji codes in a path: the sentence stays as it is."""
    run = tmp_path / "[bold]a:smile:b"
    done = subprocess.run(
        [sys.executable, "-c", "from curate.cli import main; main()", "rank", "--run", str(run)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "20", "FORCE_COLOR": ""},
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"curate: no run in {run}; run `curate embed --run {run}` first\n"
