"""What `curate inspect` prints."""

from typing import Any

from curate.terminal.text import one_line


def inspect_lines(found: dict[str, Any]) -> list[str]:
    """The set in a few lines, and what to type next."""
    width = max((len(column["name"]) for column in found["columns"]), default=0)
    lines = [f"{found['rows']:,} rows in {found['files']:,} files ({found['kind'].lstrip('.')}), {found['first_file']}"]
    lines += [
        f"  {column['name']:<{width}}  {one_line(column['type'])}: {one_line(', '.join(column['values']))}"
        for column in found["columns"]
    ]
    lines += [f"{count:,} pictures in {place}" for place, count in found["pictures"].items()]
    source = found["source"]
    for name in found["fits"]:
        lines.append(f"fits the shipped manifest {name}: curate embed --manifest {name} --source '{source}'")
    if written := found.get("written"):
        lines.append(f"{written} is written; correct its guesses, then: curate embed --manifest {written}")
    elif not found["fits"]:
        lines.append("no shipped manifest fits; --write my.toml writes one to begin with")
    return lines
