"""Keys of a data set's manifest (TOML). `curate` reads manifests; `train sample` writes one."""

MANIFEST_KEYS = (
    "name",
    "description",
    "homepage",
    "license",
    "models",
    "default_split",
    "splits",
    "columns",
    "rules",
)
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
    "labelled",  # boolean: false means not judged
    "annotator_id",
    "judgement_id",  # one value per judgement; tells repeated judgements of a pair apart
)
COLUMN_KEYS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
RULE_KEYS = ("control_image_uids",)
