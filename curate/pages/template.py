"""What every page is made of: templates, style sheets and scripts by "wing/file", and the policy of its content."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from curate.pages.palettes import PALETTES

CURATE = Path(__file__).parents[1]

MOST_BYTES = 28_000_000
"""Of one page, with all its pictures: it stays below 30 MB."""


@cache
def environment() -> jinja2.Environment:
    """Templates by "wing/file", escaping by default; each knows the palettes."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CURATE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["palettes"] = PALETTES
    return made


def joined(*names: str) -> str:
    """Style sheets or scripts by "wing/file", one after the other as one text."""
    return "".join((CURATE / name).read_text(encoding="utf-8") for name in names)


def render_page(wing: str, live: bool, library: str = "", **values: Any) -> tuple[str, str]:
    """WING/WING.html with the style and script of all pages and its own, and the page's content policy.

    live: the page asks its server for more. library: a script that runs before the page's own.
    """
    script = joined("pages/base.js", f"{wing}/{wing}.js")
    policy = content_policy([library, script] if library else [script], live)
    page = environment().get_template(f"{wing}/{wing}.html").render(
        style=Markup(joined("pages/base.css", f"{wing}/{wing}.css")),
        library=Markup(library),
        script=Markup(script),
        policy=policy,
        live=live,
        **values,
    )  # fmt: skip
    return page, policy


def data_block(value: Any) -> Markup:
    """JSON that may stand inside a script element."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def content_policy(scripts: list[str], live: bool) -> str:
    """A policy that allows these scripts by their hash, and no address but the page's own server when `live`."""
    digests = [hashlib.sha256(text.encode()).digest() for text in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    own = "; connect-src 'self'" if live else ""
    pictures = "'self' data:" if live else "data:"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src {pictures}{own}; "
        "base-uri 'none'; form-action 'none'"
    )
