"""Names inside the WebDataset shards and their index: the whole contract between `curate` and `train`.

A sample is four consecutive members of one tar, sharing a key, in alphabetical order:

    000000001.json            JSON_FIELDS
    000000001.preferred.jpg   the source's own bytes, whatever their format (see `json`)
    000000001.rejected.jpg
    000000001.txt             the prompt, UTF-8

The key is the pair's rank, zero-padded. All samples of one export have the same extension, because
readers that infer columns from the first samples (Hugging Face `datasets`) need one name per column:
the images' common format, or `jpg` when formats are mixed. Readers decode by the bytes, not the name.

With splits, each has a folder of its own with an index like that of an export without; SPLIT_INDEX beside
the folders names them. Images are the source's own bytes unless `encoded` says otherwise.
"""

SHARD_INDEX = "shards.json"
SPLIT_INDEX = "splits.json"
UNFINISHED_INDEX = "unfinished.json"  # lies there instead of the indices while an export is unfinished
CARD = "README.md"
SHARD_NAME = "pairs-{index:06d}.tar"
KEY_DIGITS = 9

PREFERRED = "preferred"  # member names are f"{PREFERRED}.{extension}"
REJECTED = "rejected"
PROMPT = "txt"
META = "json"

IMAGE_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
MIXED_EXTENSION = "jpg"

# Of every sample. Where the source counts votes, `strength` beside them: their share for the preferred side, 0.5 to 1.
JSON_FIELDS = (
    "pair_id",
    "prompt_id",
    "quality",
    "rank",
    "scores",  # {scorer: {"preferred": float, "rejected": float}}; null for one that is not finite
    "preferred",  # {"image_uid", "sha256", "format", "width", "height"}, and "source_sha256" where encoded anew
    "rejected",
    "source",  # {"dataset", "split", "file", "row_group", "row", "annotator_id"}; null where a rule prefers
)

INDEX_FIELDS = (
    "format",  # INDEX_FORMAT
    "dataset",
    "ranking",  # {"name", "metric", "psi", "psi_norm", "top", "base_pairs", "selected_pairs", "chosen_by", "prefer"}
    "extension",
    "order",  # {"by": "rank"} or {"by": "shuffle", "seed": int}
    "split",  # null, or {"name", "share"}: of the prompts
    "encoded",  # null: the source's bytes; or {"resize_px", "reencode", "pillow"}
    "pairs",  # total samples
    "prompts",  # unique ones
    "shards",  # [{"file", "samples", "bytes", "sha256", "layout_sha256"}]; the last: of all that decides the bytes
)
SPLIT_INDEX_FIELDS = (
    "format",  # SPLIT_INDEX_FORMAT
    "splits",  # [{"name", "share", "pairs", "prompts", "index_sha256"}]; its folder bears the split's name
)
SPLIT_INDEX_FORMAT = "pairsieve-splits-1"
INDEX_FORMAT = "pairsieve-shards-1"
