"""Every code block of the README and of docs/: commands and options exist, TOML and Python parse."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

import curate.cli
import train.cli
from docs.reference import KEYS
from schemas.manifests import CANDIDATE_COLUMNS
from tests.demo import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN_BY_SCRIPTS = {"gpu.md", "reproduction.md"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = {"curate": typer.main.get_command(curate.cli.app), "train": typer.main.get_command(train.cli.app)}
TARGETS = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


class Block(NamedTuple):
    """One fenced block and where it is."""

    page: str
    language: str
    text: str


BLOCKS = [
    Block(str(page.relative_to(ROOT)), *found)
    for page in PAGES
    if page.name not in WRITTEN_BY_SCRIPTS
    for found in FENCE.findall(page.read_text(encoding="utf-8"))
]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each command line of a shell block as its page and words, without what stands before our program."""
    for page, language, text in BLOCKS:
        if language != "sh":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\$\(\(.*?\)\)", "0", line), comments=True)
            for n, word in enumerate(words):
                if word in ("curate", "train", "$(command -v train)") and words[n - 1] not in ("pip", "command"):
                    yield page, ["curate" if word == "curate" else "train", *words[n + 1 :]]
                    break


COMMANDS = [pytest.param(words, id=f"{page}: {' '.join(words)[:60]}") for page, words in commands()]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_and_its_options_exist(words: list[str]) -> None:
    program, *rest = words
    command = PROGRAMS[program]
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given <= known
    assert not hasattr(command, "commands") or command.name == "metrics"


@pytest.mark.parametrize("block", [pytest.param(one, id=f"{one.page}-{n}") for n, one in enumerate(BLOCKS)])
def test_a_block_is_sound(block: Block) -> None:
    assert block.language in ("sh", "toml", "sql", "python", "text"), "name the language"
    if block.language == "python":
        ast.parse(block.text)
    if block.language == "toml":
        table = tomllib.loads(block.text)
        if {"columns", "query", "splits"} & table.keys():
            assert table.keys() <= set(KEYS[""])
            for name in table.keys() & KEYS.keys():
                sides = {re.sub("preferred|rejected", "image_0", key) for key in table[name]}
                assert sides <= {*KEYS[name], *CANDIDATE_COLUMNS}, name


def test_there_is_much_to_check() -> None:
    assert len(COMMANDS) > 80
    assert {language for _, language, _ in BLOCKS} == {"sh", "toml", "sql", "python", "text"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_fenced_and_names_targets_that_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert set(re.findall(r"`make ([\w.-]+)", text)) <= TARGETS
    if page.name not in WRITTEN_BY_SCRIPTS:
        assert not re.search(r"\n\n    \S", text), "indented code has no language"
