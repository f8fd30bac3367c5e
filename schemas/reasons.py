"""The closed list of words that say why an image or a pair was left out."""

PAIR_REASONS = {
    "unlabelled": "the source marks the row as not judged",
    "other_dimension": "another question about the pair was asked for, or its answer is part of the pair's mean",
    "control_image": "one side is a control image shown to check the annotators",
    "bad_label": "labels are null, NaN, outside {0, 0.5, 1}, or do not sum to 1",
    "bad_text": "a text of the row, such as its prompt or an id, is not UTF-8",
    "empty_prompt": "the prompt is null or blank",
    "missing_image": "an image uid is null, or the row has no bytes and no path for it",
    "same_image": "both sides are the same image",
    "duplicate_pair": "the same judgement of the same pair came before",
    "image_dropped": "one side's image was left out, for its own reason",
    "tie": "the annotator preferred neither",
    "undecided": "the rule of --prefer takes neither side: equal, no finite score, or not all scorers agree",
    "score_missing": "a scorer that psi weighs has no finite value for one side",
    "other_split": "the pair is of another split than --split names",
    "low_score": "the preferred image scores below --min-score",
    "nsfw": "an nsfw score of an image, or the flag of the prompt, is above --max-nsfw",
    "annotator_at_chance": "its annotator agrees with the calibrated score less often than --min-annotator-agreement",
    "where": "--where does not hold",
    "not_ranked": "the metric gave the pair no quality",
}

IMAGE_REASONS = {
    "image_empty": "no bytes",
    "image_unreadable": "not an image, truncated, or of a format that cannot be decoded",
    "image_too_large": "more pixels than the limit: a decompression bomb",
    "image_too_narrow": "one side is more than 100 times the other: a spacer, not a picture",
    "image_unscorable": "it was decoded, but a scorer's preprocessing failed on it",
    "image_missing": "the path or URL cannot be read",
    "image_kills_worker": "the process that decoded it crashed or was killed, twice",
}

PASSED_OVER = {
    "max_per_prompt": "as many pairs of its prompt, or of its near-duplicates, were chosen before",
    "max_per_image": "as many pairs with one of its images were chosen before",
    "max_per_annotator": "as many pairs of its annotator were chosen before",
    "diversity": "its prompt is too like those chosen",
}
"""Why a pair above the last selected one was not selected."""

REASONS = PAIR_REASONS | IMAGE_REASONS
