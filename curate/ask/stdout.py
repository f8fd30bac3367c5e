"""What `curate search` prints."""

from typing import Any

from curate.terminal.text import count_or_dash, one_line


def search_lines(found: list[dict[str, Any]]) -> list[str]:
    """The nearest prompts with what became of their pairs, or the pairs themselves."""
    if not found:
        return ["no prompt is there to compare with"]
    if "pair_id" in found[0]:
        head = f"{'similarity':>10}{'rank':>9}{'quality':>9}  {'':<8}  {'pair':<16}  prompt"
        return [head, *(_search_pair_line(row) for row in found)]
    return [
        f"{'similarity':>10}{'pairs':>8}{'selected':>10}{'best rank':>11}  prompt",
        *(
            f"{row['similarity']:>10.4f}{row['pairs']:>8,}{row['selected']:>10,}{count_or_dash(row['best_rank']):>11}"
            f"  {one_line(row['prompt'])}"
            for row in found
        ),
    ]


def _search_pair_line(row: dict[str, Any]) -> str:
    quality = "-" if row["quality"] is None else f"{row['quality']:.4f}"
    chosen = "selected" if row["selected"] else ""
    return (
        f"{row['similarity']:>10.4f}{count_or_dash(row['rank']):>9}{quality:>9}  {chosen:<8}  {row['pair_id']:<16}"
        f"  {one_line(row['prompt'])}"
    )
