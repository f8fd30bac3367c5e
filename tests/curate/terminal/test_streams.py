"""What the command says where its streams are closed or full, or its arguments are no text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.curate.runs import HAND_PAIRS, HAND_SCORES, make_run, ranked


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streams") / "run"
    ranked(make_run(root, HAND_PAIRS, HAND_SCORES), top="2")
    return root


def sql(
    run: Path, *arguments: str | bytes, redirected: str = "", stdin: bytes = b"", **environment: str
) -> tuple[int, str, str]:
    """`curate sql` as a shell starts it, with streams redirected in the shell's own words."""
    words = [sys.executable, "-m", "curate.cli", "sql", "--run", str(run), *arguments]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *words],
        input=stdin,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_closed_stdin_brings_no_query(run: Path) -> None:
    said = 'curate: no query was given; write one, such as "from pairs limit 5", or bring it by a pipe\n'
    assert sql(run, redirected="<&-") == (2, "", said)


def test_bytes_that_are_no_text(run: Path) -> None:
    code, out, err = sql(run, stdin=b"select '\xe9'")
    assert (code, out) == (2, "")
    assert err.startswith("curate: the query on standard input is not UTF-8 text: ")
    assert sql(run, b"select '\xe9'") == (2, "", "curate: the argument b\"select '\\xe9'\" is not UTF-8 text\n")


def test_a_character_that_the_encoding_lacks_is_shown_by_its_escape(run: Path) -> None:
    assert sql(run, "select 'é' as x", "--csv", PYTHONIOENCODING="ascii") == (0, "x\n\\xe9\n", "")


def test_a_full_stdout_is_one_sentence(run: Path) -> None:
    said = "curate: standard output could not be written: No space left on device\n"
    assert sql(run, "select 1", redirected=">/dev/full") == (1, "", said)


def test_a_closed_stdout_is_no_failure(run: Path) -> None:
    assert sql(run, "select 1", redirected=">&-") == (0, "", "")
