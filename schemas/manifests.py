"""Keys of manifests (TOML): of a data set, which `curate` reads and `train sample` writes, and of a set of prompts."""

MANIFEST_KEYS = (
    "name",
    "description",
    "homepage",
    "license",
    "models",
    "default_split",
    "splits",
    "columns",
    "query",
    "images",
    "labels",
    "candidates",
    "keep",
    "dimension",
    "rules",
    "sampled",
)
QUERY_KEYS = ("sql",)
LABEL_KEYS = ("values", "least_margin", "least_share")
SPLIT_KEYS = ("files", "rows")

REQUIRED_COLUMNS = ("prompt",)
OPTIONAL_COLUMNS = (
    "image_0_uid",  # absent: the path, or the sha256 of the bytes, is the uid
    "image_1_uid",
    "image_0_bytes",  # encoded image bytes in the row, or ...
    "image_1_bytes",
    "image_0_path",  # ... a path or URL beside it
    "image_1_path",
    "image_0_model",  # what drew the image
    "image_1_model",
    "label_0",  # 1 = image 0 preferred, 0 = image 1, 0.5 = tie; label_1 is the complement
    "label_1",
    "votes_0",  # or how many preferred each side (numbers; shares will do), ...
    "votes_1",
    "votes",  # ... each vote, as a list or its JSON text, ...
    "share_0",  # ... or the share that preferred image 0
    "labelled",  # boolean: false means not judged
    "annotator_id",
    "judgement_id",  # one value per judgement; tells repeated judgements of a pair apart
    "category",  # of the prompt
    "dimension",  # the question that was judged, where one pair was asked about several times
)
COLUMN_KEYS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
# One row a picture instead of a pair: [candidates] makes pairs of them.
CANDIDATE_COLUMNS = (
    "prompt",
    "image_path",
    "image_uid",
    "image_model",
    "image_group",  # pictures that are compared with each other; absent: those of one prompt
    "rank",  # lower is better, or ...
    "rating",  # ... higher is better
    "category",
)
CANDIDATE_KEYS = ("rule", "per_prompt")
CANDIDATE_RULES = ("all", "adjacent", "best-worst", "best-rest")
RULE_KEYS = ("control_image_uids",)

# [sampled]: how the pictures were drawn, where `train sample` drew them.
SAMPLED_KEYS = ("seed", "steps", "guidance", "scheduler", "images_per_prompt", "models")
SAMPLED_MODEL_KEYS = (
    "name",  # as in image_0_model and image_1_model
    "source",  # the pipeline, hub id or LoRA
    "base",  # what it was trained from; absent where nothing says so
    "chosen_by",  # scorers that chose its training pairs: they are no impartial judges of it
    "black",  # pictures left out because they are black, ...
    "not_finite",  # ... or hold values that are not finite
)

# data_manifests/prompts/*.toml: sets of prompts by name. The sets themselves are not shipped.
PROMPT_SET_KEYS = ("name", "description", "homepage", "license", "source", "rows", "columns", "blocks")
PROMPT_COLUMN_KEYS = ("prompt", "category")
PROMPT_BLOCK_KEYS = ("category", "rows")  # where the category follows from the place in the file
PROMPT_COLUMNS = ("prompt", "Prompt", "caption")  # looked for, in this order, where no manifest names one
CATEGORY_COLUMNS = ("category", "Category")
