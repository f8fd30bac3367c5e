"""`curate score`: each picture beside each prompt, as `curate embed` would score them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curate.errors import SourceError, UsageError
from curate.models.model_set import DEFAULT_SCORERS, load_model_set
from curate.sources.images import Rejected
from curate.sources.parquet import Location

PICTURE_SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def score(
    images: Sequence[Path],
    prompts: Sequence[str],
    models: str = "published",
    scorers: Sequence[str] = DEFAULT_SCORERS,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """One row for each picture and prompt: `image`, `prompt`, `<scorer>_score`; or `reason` where there is no picture.

    images: files, or folders whose pictures are taken by name. In float32. Raises: UsageError for no prompt or an
    unknown scorer; SourceError for a path that is not there; ManifestError, ModelError.

    >>> [row["image"] for row in score([Path("picture.png")], ["a red circle"], models="demo")]
    ['picture.png']
    """
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise UsageError("--prompt: give a text for the pictures to be scored with")
    files = [file for image in images for file in _pictures(image)]
    model_set = load_model_set(models)
    chosen = model_set.choose(list(scorers))

    from curate.models.scoring import EmbeddedPrompts, load_scoring
    from curate.models.towers.precision import choose_devices

    scoring = load_scoring(model_set, chosen, choose_devices(device, None)[0], "fp32")
    texts = list(dict.fromkeys(prompts))
    rows = {text: row for row, text in enumerate(texts)}
    return _rows(files, EmbeddedPrompts(rows, texts, scoring.embed_prompts(texts)), scoring)


def _rows(files: list[Path], prompts: Any, scoring: Any) -> list[dict[str, Any]]:
    from curate.embed.decode.reading import Batch, EncodedImage, cut_batches
    from curate.embed.device.pipeline import open_decode_pool
    from curate.embed.options import ComputeOptions
    from curate.embed.planning.plan import Part

    options = ComputeOptions("cpu", "fp32", batch_images=64)
    images = [EncodedImage(str(file), Location(str(file), 0, 0, 0), file.read_bytes()) for file in files]
    part = Part(0, tuple((image.image_uid, image.location) for image in images), {})
    found: list[dict[str, Any]] = []
    with open_decode_pool(options, scoring, 64) as decoding:
        for batch in decoding.batches(cut_batches([Batch(part, images, True)], 64)):
            results = [(uid, result) for (uid, _), result in zip(batch.places, batch.results, strict=True)]
            kept = [uid for uid, result in results if not isinstance(result, Rejected)]
            matched = [(row, text) for row in range(len(kept)) for text in prompts.texts]
            _, scores = scoring.score_pictures(batch.pixels, matched, prompts) if kept else ({}, {})
            found += [
                {"image": kept[row], "prompt": text} | {f"{name}_score": float(of[n]) for name, of in scores.items()}
                for n, (row, text) in enumerate(matched)
            ]
            found += [
                {"image": uid, "reason": result.reason, "detail": result.detail}
                for uid, result in results
                if isinstance(result, Rejected)
            ]
    return found


def _pictures(path: Path) -> list[Path]:
    """A file as it is; of a folder its pictures, sorted. Raises: SourceError."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise SourceError(f"--image {path}: {'no pictures are in it' if path.is_dir() else 'no such file or folder'}")
    return found
