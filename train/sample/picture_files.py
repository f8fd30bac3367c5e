"""The pictures of `train sample` on disk, in parts that stand whole or not at all.

<output>/sampling.json                  what decides a picture: seed, steps, guidance, scheduler, each model's weights
         images/<model>/<first seed>/   one batch of one model: part.json beside its PNGs
"""

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from train.errors import RunDirectoryError
from train.files import whole_folder, write_json
from train.model.families import locate
from train.model.saving import pipeline_of
from train.model.single_file import SINGLE_FILE
from train.sample.generate import PictureRequest, to_picture

SETTINGS, PART_FILE, IMAGES = "sampling.json", "part.json", "images"
RequestKey = tuple[str, int]  # of a request: prompt and seed
# Half the time of Pillow's own 6 or less; pictures with grain are no larger, the demo's 17 %, very smooth ones 39 %.
COMPRESS_LEVEL = 1
PNG_THREADS = 4  # pictures of a batch that become PNGs at once
WEIGHTS = (".safetensors", ".bin", ".json")


class Model(NamedTuple):
    """A model by the name it bears in tables, and where it is: a pipeline folder, hub id or LoRA of ours."""

    name: str
    source: str


class StoredPicture(NamedTuple):
    """A picture on disk: its uid, its file relative to the output folder (None where it is at fault), the fault."""

    uid: str
    path: str | None
    fault: str | None


@dataclass(frozen=True)
class StoredPictures:
    """The finished parts of one model."""

    output: Path
    model: Model

    @property
    def folder(self) -> Path:
        """The name is readable and, by its hash, the model's alone."""
        word = "".join(letter if letter.isalnum() else "-" for letter in Path(self.model.name).name)[:40]
        return self.output / IMAGES / f"{word}-{hashlib.sha256(self.model.name.encode()).hexdigest()[:8]}"

    def by_request(self) -> dict[RequestKey, StoredPicture]:
        """Every picture of a sound part, by its request."""
        found: dict[RequestKey, StoredPicture] = {}
        for path in sorted(self.folder.glob(f"[0-9]*/{PART_FILE}")):
            found.update(self._part(path))
        return found

    def _part(self, path: Path) -> dict[RequestKey, StoredPicture]:
        """Nothing of a part that is damaged: it is drawn again."""
        found: dict[RequestKey, StoredPicture] = {}
        try:
            for row in json.loads(path.read_text("utf-8")):
                picture = path.parent / row["file"]
                if picture.stat().st_size != row["bytes"]:
                    return {}
                file = None if row["fault"] else picture.relative_to(self.output).as_posix()
                found[row["prompt"], row["seed"]] = StoredPicture(row["uid"], file, row["fault"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return found

    def write(self, requests: list[PictureRequest], pixels: torch.Tensor) -> int:
        """One batch, whole or not at all; how many pictures. pixels: as `generate` gives them. Raises: StorageError."""
        with whole_folder(self.folder / f"{requests[0].seed:019d}") as folder, ThreadPoolExecutor(PNG_THREADS) as pool:
            rows = []
            for number, (request, (data, fault)) in enumerate(zip(requests, pool.map(_png, pixels), strict=True)):
                file = f"{number:03d}.png"
                (folder / file).write_bytes(data)
                row = {"prompt": request.prompt.text, "seed": request.seed, "uid": self._uid(request, data)}
                rows.append(row | {"file": file, "bytes": len(data), "fault": fault})
            (folder / PART_FILE).write_text(json.dumps(rows, indent=1, ensure_ascii=False), "utf-8")
        return len(requests)

    def _uid(self, request: PictureRequest, data: bytes) -> str:
        """It names model, request and bytes: equal pictures of two models are still two images."""
        named = f"{self.model.name}\0{request.seed}\0{request.prompt.text}\0".encode()
        return hashlib.sha256(named + data).hexdigest()[:32]


def _png(pixels: torch.Tensor) -> tuple[bytes, str | None]:
    """A picture's bytes, and its fault."""
    buffer, picture = io.BytesIO(), to_picture(pixels)
    picture.image.save(buffer, "PNG", compress_level=COMPRESS_LEVEL)
    return buffer.getvalue(), picture.fault


def recorded_weights(output: Path, settings: dict[str, Any], weights: dict[str, str]) -> dict[str, str]:
    """The weights, by model, of pictures that are there: pictures of other settings or weights are never mixed.

    More prompts, pictures or models may be asked for than before. Raises: RunDirectoryError naming what differs.
    """
    path = output / SETTINGS
    try:
        document = json.loads(path.read_text("utf-8"))
        stated, earlier = document["settings"], dict(document["models"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{path} is damaged ({error}); remove {output}, or name another --output.") from error
    names = [name for name in {**stated, **settings} if stated.get(name) != settings.get(name)]
    differing = [f"{name} was {stated.get(name)}, now {settings.get(name)}" for name in names]
    differing += [f"{name} had other weights" for name, now in weights.items() if earlier.get(name, now) != now]
    if differing:
        raise RunDirectoryError(
            f"{output} holds pictures drawn under other settings ({'; '.join(differing)});"
            " name another --output, or remove it."
        )
    return earlier


def record_settings(output: Path, settings: dict[str, Any], weights: dict[str, str]) -> None:
    """Write sampling.json. Raises: StorageError."""
    write_json(output / SETTINGS, {"settings": settings, "models": weights})


def fingerprint(source: str) -> str:
    """A hash of a model's files but a single file of the same weights, of a LoRA's base too; a hub id is its own."""
    folder, digest = Path(locate(source)), hashlib.sha256()
    if not folder.is_dir():
        return source
    files = (item for item in folder.rglob("*") if item.suffix in WEIGHTS and item.name != SINGLE_FILE)
    for path in sorted(item for item in files if item.is_file()):
        with path.open("rb") as stream:
            digest.update(f"{path.relative_to(folder)}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    if (base := pipeline_of(str(folder))) != str(folder):
        digest.update(fingerprint(base).encode())
    return digest.hexdigest()
