"""What each view of a run's database holds and what each of its columns means, in one sentence.

The words become SQL comments (curate/database/comments.py). A column means the same wherever it occurs, unless
OF_ONE_VIEW says otherwise; columns that bear the name of a scorer or a tower are described by pattern.
"""

import re

VIEWS = {
    "pairs": "One judged (or sampled) pair of the source.",
    "images": "One unique image, where its bytes lie, and each tower's embedding of it.",
    "prompts": "One unique prompt and each tower's embedding of it.",
    "scores": "One (prompt, image) that occurs in a pair, with every scorer's value.",
    "dropped": "One image or pair left out, by stage, with its reason; counts add up: in = out + dropped.",
    "tags": "One tag that a person gave a pair in `curate browse`.",
    "eligible": "One pair that can be ranked: judged, no tie, both images scored.",
    "scored": "One (prompt, image) with every scorer's value, under a short id; a value that is not finite is null.",
    "shown": "One pair that can be ranked, before a rule of --prefer names its sides: image 0 first.",
    "shown_scores": "One pair of `shown`, as `pair_scores`.",
    "usable": "One (prompt, image) that has every score that psi weighs.",
    "sided": "One judged pair, no tie, whose preferred image can be ranked.",
    "used_scores": "One (prompt, image) that an eligible pair uses: what psi is normalised over.",
    "psi_weights": "One row: the weight of each scorer in psi.",
    "normalised": "One (prompt, image) that an eligible pair uses, each score brought to [0, 1].",
    "psi": "One (prompt, image) that an eligible pair uses, with its blend of normalised scores.",
    "pair_scores": "One eligible pair as a metric sees it: each scorer's two values and their margin, and psi.",
    "pair_facts": "One eligible pair with everything that --where may ask of it.",
    "calibration_weights": "One row: the fitted weight of each scorer's margin.",
    "calibrated": "One eligible pair and the log-odds that its judgement is right, by all scorers' margins.",
    "annotators": "One annotator of an eligible pair, and how often they agree with the calibrated score.",
    "ranking": "One ranked pair of the ranking written last.",
}
RANKING_NAMED = "One ranked pair of the ranking '{name}'."

COLUMNS = {
    "pair_id": "The pair's id, the same however the source is ordered or cut into files.",
    "prompt_id": "The prompt's id; joins prompts and scores.",
    "prompt": "The text that made the images.",
    "image_uid": "The source's uid of the image; joins images and scores.",
    "image_0_uid": "Image 0, the first of the two shown.",
    "image_1_uid": "Image 1, the second of the two shown.",
    "image_0_model": "What drew image 0; null where the source does not say.",
    "image_1_model": "What drew image 1; null where the source does not say.",
    "category": "The prompt's category; null where the source does not say.",
    "preference": "The image that the annotator preferred, 0 or 1; null for a tie, or where nobody judged.",
    "strength": "Share of the votes for the preferred image, 0.5 to 1; null where the source counts none.",
    "disagreement": "Share of the questions asked about the pair whose winner is another; null where one was asked.",
    "split": "The source's split, such as train.",
    "annotator_id": "Who judged the pair; null where the source does not say.",
    "source_file": "The source's Parquet file.",
    "source_row_group": "Row group of that file, from 0.",
    "source_row": "Row within the row group, from 0.",
    "source_side": "Which image of that row, 0 or 1.",
    "sha256": "Hex sha256 of the encoded bytes.",
    "size_bytes": "Length of the encoded bytes.",
    "width": "Pixels across, upright.",
    "height": "Pixels down, upright.",
    "format": "How the bytes are encoded, such as JPEG or PNG.",
    "stage": "The command that left it out: embed, or rank and the ranking's name.",
    "reason": "Why, in one word of a closed list.",
    "detail": "Why, in words.",
    "tag": "A word of a person's own, such as exclude.",
    "preferred_uid": "The image that the annotator preferred, or the rule that `curate rank --prefer` names.",
    "rejected_uid": "The other image.",
    "preferred_id": "score_id of the preferred image under this prompt.",
    "rejected_id": "score_id of the other image under this prompt.",
    "score_id": "A short id of the (prompt, image), of this database only.",
    "prompt_hash": "DuckDB's hash of prompt_id, by which pairs find their scores.",
    "image_hash": "DuckDB's hash of image_uid, by which pairs find their scores.",
    "psi": "Weighted mean of the normalised scores, in [0, 1].",
    "psi_preferred": "psi of the preferred image, in [0, 1].",
    "psi_rejected": "psi of the other image, in [0, 1].",
    "preferred_model": "What drew the preferred image; null where the source does not say.",
    "rejected_model": "What drew the other image; null where the source does not say.",
    "turned": "Whether --prefer takes the image that the annotator rejected; null where nobody preferred one.",
    "log_odds": "Above 0 where the scorers side with the annotator; null where a margin is missing.",
    "judgements": "How many eligible pairs the annotator judged.",
    "agreement": "Share of them on the calibrated score's side, drawn towards the mean of all by ten judgements.",
    "quality": "The metric's value for the pair; higher is better.",
    "rank": "Place by quality; 1 is best, equal qualities follow pair_id.",
    "percentile": "1.0 for the best rank, 0.0 for the worst.",
    "selected": "Whether the pair is among those that --top takes.",
    "image_reward_score": "ImageReward of the image for the prompt; about -2 to 2, unbounded.",
    "nsfw_score": "Probability that the image is not safe for work, by LAION's classifier; the prompt plays no part.",
    "nsfw_words_score": "1 where the prompt holds a word of the list, else 0; the image plays no part.",
    "passed_over": "Why the pair was not selected though one of a worse rank was; else null.",
}
OF_ONE_VIEW = {
    ("dropped", "pair_id"): "The pair left out; null where it is an image.",
    ("dropped", "image_uid"): "The image left out; null where it is a pair.",
    (
        "pairs",
        "source_file",
    ): "The source's Parquet file, or the run's rows.parquet where the source is of another kind.",
    ("images", "source_file"): "The file that the image's bytes were read from.",
}

# Tried in order; {name} is the scorer or the tower.
PATTERNS = (
    (re.compile(r"(?P<name>\w+)_embedding"), "The tower {name}'s embedding, L2-normalised."),
    (re.compile(r"(?P<name>\w+)_score"), "{name}'s score of the image for the prompt."),
    (re.compile(r"(?P<name>\w+)_preferred"), "{name}'s score of the preferred image."),
    (re.compile(r"(?P<name>\w+)_rejected"), "{name}'s score of the other image."),
    (re.compile(r"(?P<name>\w+)_margin"), "{name}_preferred - {name}_rejected; below 0 the annotator overruled it."),
    (re.compile(r"(?P<name>\w+)_weight"), "Weight of {name}."),
    (re.compile(r"(?P<name>\w+)_unit"), "{name}'s score brought to [0, 1]."),
)


def describe_view(view: str) -> str | None:
    """One sentence on a view's rows, or None for a view that is not ours."""
    if view.startswith("ranking_"):
        return RANKING_NAMED.format(name=view.removeprefix("ranking_"))
    return VIEWS.get(view)


def describe_column(view: str, column: str) -> str | None:
    """One sentence on a column, or None where nothing is known of it."""
    known = OF_ONE_VIEW.get((view, column)) or COLUMNS.get(column)
    if known is not None:
        return known
    for pattern, words in PATTERNS:
        if found := pattern.fullmatch(column):
            return words.format(name=found["name"])
    return None
