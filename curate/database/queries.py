"""Queries of ours, one per file in a wing's sql/, and the blocks in them that repeat for every scorer."""

import re
from importlib.resources import files
from pathlib import Path

CURATE = Path(str(files("curate")))


_EACH = re.compile(r"^[ \t]*-- each (\w+)[ \t]*\n(.*?)^[ \t]*-- end[ \t]*(?:\n|\Z)", re.MULTILINE | re.DOTALL)


def query_text(name: str, **each: list[str]) -> str:
    """The text of a wing's query with its `each` blocks repeated: each={"scorer": [...]}.

    name: "rank/psi" is curate/rank/sql/psi.sql.
    """
    wing, query = name.split("/")
    return fill_blocks((CURATE / wing / "sql" / f"{query}.sql").read_text(encoding="utf-8"), **each)


def fill_blocks(text: str, **each: list[str]) -> str:
    """Repeat the lines between `-- each WORD` and `-- end` for every item of each[WORD], {WORD} standing for it.

    A WORD that `each` lacks is a comment like another.
    """

    def repeated(block: re.Match[str]) -> str:
        word, lines = block[1], block[2]
        return "".join(lines.replace(f"{{{word}}}", item) for item in each[word]) if word in each else block[0]

    return _EACH.sub(repeated, text)
