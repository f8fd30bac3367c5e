"""A manifest to begin with: which column is what, by the names that people give them. Each guess is marked."""

from pathlib import Path
from typing import Any

# Our key -> names that published sets have for it, the likeliest first; compared without case and underscores.
NAMES = {
    "prompt": ("prompt", "caption", "text", "originalprompt.txt", "prompt.txt", "txt", "instruction"),
    "preferred": ("chosen", "preferred", "win", "imgwin", "winner", "imagew", "preferred.jpg", "chosenimage"),
    "rejected": ("rejected", "lose", "imglose", "loser", "imagel", "rejected.jpg", "rejectedimage"),
    "image_0": ("image0", "jpg0", "image1", "img1", "leftimage", "imageleft", "left", "imagea", "path1", "jpg0.jpg"),
    "image_1": ("image1", "jpg1", "image2", "img2", "rightimage", "imageright", "right", "imageb", "path2", "jpg1.jpg"),
    "image_0_uid": ("image0uid", "image0id", "imageleftid"),
    "image_1_uid": ("image1uid", "image1id", "imagerightid"),
    "label_0": ("label0", "label", "preference", "pref", "choice", "votetype", "winner", "label0.txt"),
    "votes_0": ("votes0", "votesimage1", "votesleft", "vote1", "votesa"),
    "votes_1": ("votes1", "votesimage2", "votesright", "vote2", "votesb"),
    "votes": ("votes", "responses", "choicedist", "preferenceresponses"),
    "image_0_model": ("model0", "model1", "leftmodel", "modela"),
    "image_1_model": ("model1", "model2", "rightmodel", "modelb"),
    "annotator_id": ("userid", "annotator", "annotatorid", "workerid"),
    "image_path": ("imagepath", "images", "image", "path", "filename"),
    "rank": ("rank", "ranking", "ranks"),
    "rating": ("rating", "score", "overallrating", "overallscore"),
}
BESIDE = ("image_0_uid", "image_1_uid", "image_0_model", "image_1_model", "annotator_id")
SECOND = {"image_0": "image_1", "image_0_model": "image_1_model"}  # both begin at 1 where there is no 0


def guessed_manifest(name: str, files: list[str], columns: list[dict[str, Any]], kind: str) -> str:
    """TOML text; `curate embed` reads it once its marked lines are right."""
    types = {column["name"]: column["type"] for column in columns}
    found = _found(list(types))
    listed = ", ".join(f'"{Path(file).resolve()}"' if "://" not in file else f'"{file}"' for file in files[:100])
    lines = [
        f'name = "{name}"',
        'models = "published"',
        "",
        "[splits.train]",
        f"files = [{listed}]",
        "",
    ]
    pairs = {"preferred", "rejected"} <= set(found) or {"image_0", "image_1"} <= set(found)
    if not pairs and "image_path" in found and {"rank", "rating"} & set(found):
        return "\n".join([*lines, *_candidates(found)]) + "\n"
    lines.append("[columns]")
    lines.append(_line("prompt", found, "the text that made the pictures"))
    sides = ("preferred", "rejected") if {"preferred", "rejected"} <= set(found) else ("image_0", "image_1")
    for side in sides:
        holds = _holds(types.get(found.get(side, ""), ""), kind)
        lines.append(_line(f"{side}_{holds}", found, "a picture's bytes" if holds == "bytes" else "its path", side))
    if sides[0] == "image_0":
        label = next((key for key in ("votes_0", "votes", "label_0") if key in found), "label_0")
        lines.append(_line(label, found, "who is preferred; see docs/data.md for other kinds of labels"))
        if label == "votes_0":
            lines.append(_line("votes_1", found, "votes for the other picture"))
        if label == "label_0" and types.get(found.get(label, ""), "VARCHAR") == "VARCHAR":
            lines += ["", "# [labels]", "# values = { left = 1, right = 0, tie = 0.5 } # what the label may hold"]
    lines += [
        _line(key, found, "")
        for key in ("image_0_uid", "image_1_uid", "image_0_model", "image_1_model", "annotator_id")
        if key in found
    ]
    return "\n".join(lines) + "\n"


def _found(names: list[str]) -> dict[str, str]:
    """Our key -> the column that is likely to be it."""
    plain = {name.lower().replace("_", "").replace("-", ""): name for name in reversed(names)}
    found: dict[str, str] = {}
    for key, known in NAMES.items():
        taken = {found.get(first) for first, second in SECOND.items() if second == key}
        match = next((plain[word] for word in known if word in plain and plain[word] not in taken), None)
        if match is not None:
            found[key] = match
    return found


def _holds(column_type: str, kind: str) -> str:
    """Whether a column holds pictures or the paths of them."""
    return "bytes" if kind == ".tar" or column_type == "BLOB" else "path"


def _line(key: str, found: dict[str, str], what: str, column: str | None = None) -> str:
    name = found.get(column or key)
    says = f"  # {'a guess' if name else 'NOT FOUND: name the column'}{f': {what}' if what else ''}"
    return f'{key} = "{name or "?"}"{says}'


def _candidates(found: dict[str, str]) -> list[str]:
    order = "rank" if "rank" in found else "rating"
    return [
        "[query]  # a guess",
        f"""sql = 'select "{found.get("prompt", "?")}" as prompt, "{found["image_path"]}" as image_path, """
        f""""{found[order]}" as {order} from source'""",
        "",
        "[candidates]",
        'rule = "best-worst"  # or best-rest, adjacent, all',
    ]
