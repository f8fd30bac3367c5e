"""What `curate search` and `curate show` print."""

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


def show_lines(found: dict[str, Any]) -> list[str]:
    """All that a run knows of a pair, its sides beside each other, or of an image."""
    gone = [f"left out  {row['stage']}: {row['reason']}, {one_line(row['detail'])}" for row in found["dropped"]]
    if "pair" not in found:
        image = found["image"]
        scores = [f"{name:<10}{value:.5g}" for row in image["scores"] for name, value in _scores(row).items()]
        return [_image_line("image", image), *scores, *gone, f"pairs     {', '.join(found['pairs']) or '-'}"]
    pair, images = found["pair"], found["images"]
    preferred = "a tie" if pair["preference"] is None else f"image {pair['preference']} is preferred"
    by = f" by {pair['annotator_id']}" if pair["annotator_id"] else ""
    models = [pair[f"image_{side}_model"] or "" for side in (0, 1)]
    values = [_scores(next(iter(image["scores"]), {})) for image in images]
    return [
        f"pair      {pair['pair_id']}: {preferred}{by}",
        f"prompt    {one_line(found['prompt'])}",
        *(_image_line(f"image {side}", image, models[side]) for side, image in enumerate(images)),
        *(
            f"{name:<10}{_value(values[0].get(name)):>10}{_value(values[1].get(name)):>10}"
            for name in sorted({*values[0], *values[1]})
        ),
        *map(_place_line, found["rankings"]),
        *gone,
    ]


def _scores(row: dict[str, Any]) -> dict[str, float]:
    return {name.removesuffix("_score"): value for name, value in row.items() if name.endswith("_score")}


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _image_line(title: str, image: dict[str, Any], model: str = "") -> str:
    size = f", {image['width']} x {image['height']} {image['format']}" if "width" in image else ""
    by = f", by {model}" if model else ""
    return f"{title:<10}{image['image_uid']}{by}{size}"


def _place_line(place: dict[str, Any]) -> str:
    if place["rank"] is None:
        return f"ranking   {place['ranking']}: not ranked"
    why = f", passed over: {place['passed_over']}" if place.get("passed_over") else ""
    chosen = "selected" if place["selected"] else "not selected"
    return (
        f"ranking   {place['ranking']}: rank {place['rank']:,} of {place['pairs']:,} by {place['metric']}, "
        f"quality {place['quality']:.4g}, {chosen}{why}"
    )
