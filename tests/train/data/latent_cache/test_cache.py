import copy
import fcntl
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from tests.train import tiny
from tests.train.caches import build
from tests.train.conftest import Train
from train.data.latent_cache import cache as cache_module, store as store_module
from train.data.latent_cache.cache import LatentCache, default_root, fill, open_cache
from train.data.latent_cache.rows import PictureRows
from train.data.latents import ADVICE
from train.data.pairs import PairSet, read_pairs
from train.errors import CacheError, MemoryFullError, ModelError, ShardError, StorageError
from train.model.families import DiffusionModel, load
from train.terminal import Reporter

CPU = torch.device("cpu")
QUIET = Reporter(main=False)


@pytest.fixture(scope="module")
def model(sd: Path) -> DiffusionModel:
    return load(str(sd))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    """Forty pairs: more images than are encoded at once."""
    return read_pairs(tiny.write_shards(tmp_path_factory.mktemp("many") / "shards", tiny.samples(40)))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each encoding took."""
    counts: list[int] = []
    real = PictureRows.encode

    def counted(self: PictureRows, items: list[int], *rest: Any, **named: Any) -> dict[str, torch.Tensor]:
        found = real(self, items, *rest, **named)
        counts.append(len(items))
        return found

    monkeypatch.setattr(PictureRows, "encode", counted)
    return counts


class Said(Reporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__(main=False)
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


def opened(folder: Path, model: DiffusionModel, pairs: PairSet, *, resolution_px: int = 32) -> tuple[LatentCache, str]:
    """A cache, and the first thing said about it."""
    said = Said()
    options = {"resolution_px": resolution_px, "flips": True}
    return open_cache(folder, model, pairs, Accelerator(cpu=True), said, **options), said.texts[0]  # type: ignore[arg-type]


def rows(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in a cache, by encoder and name; no row is there twice."""
    found: dict[str, torch.Tensor] = {}
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            held = {f"{path.parent.name}/{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert not held.keys() & found.keys()
        found |= held
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def latents(cache: LatentCache, pairs: PairSet) -> torch.Tensor:
    images = list(range(len(pairs.images)))
    return cache.encoded(images, torch.ones(len(images), 4, 16, 16), [True] * len(images), [0] * len(images))[0]


def test_another_selection_reuses_the_pictures_and_prompts_that_it_shares(
    model: DiffusionModel, tmp_path: Path, encoded: list[int]
) -> None:
    samples = tiny.samples(6)
    first, second = (
        read_pairs(tiny.write_shards(tmp_path / name, some)) for name, some in (("a", samples[:4]), ("b", samples[2:]))
    )
    folder, own, common = tmp_path / "latents", len(first.hashes), len({*first.hashes} & {*second.hashes})
    assert opened(folder, model, first)[1] == (
        f"Latent cache {folder}: prompts by text encoder 1: 0 reused, 4 to encode; pictures: 0 reused, {own} to encode."
    )
    cache, said = opened(folder, model, second)
    rest = len(second.hashes) - common
    assert said == (
        f"Latent cache {folder}: prompts by text encoder 1: 4 reused, 0 to encode;"
        f" pictures: {common} reused, {rest} to encode."
    )
    assert encoded == [own, rest]
    assert 0 < rest < common
    assert torch.equal(latents(cache, second), latents(build(tmp_path / "alone", model, second), second))
    assert len(rows(folder)) == 3 * (own + rest) + 4


def test_one_cache_serves_sizes_flips_and_models_with_one_vae(
    model: DiffusionModel, shards: Path, tmp_path: Path, encoded: list[int]
) -> None:
    pairs, other = read_pairs(shards), load(str(tiny.save_sd(tmp_path / "other", seed=1)))
    build(tmp_path, model, pairs, flips=False)
    build(tmp_path, model, pairs, flips=False)
    assert encoded == [9]
    pictures = len(rows(tmp_path))
    build(tmp_path, model, pairs, flips=True)  # mirror images were not asked for before, and alone are encoded now
    assert encoded == [9, 9]
    assert len(rows(tmp_path)) == pictures + 9
    build(tmp_path, DiffusionModel(**(vars(other) | {"vae": model.vae})), pairs)
    opened(tmp_path, model, pairs, resolution_px=64)
    assert encoded == [9, 9, 9]
    assert [len(list(tmp_path.glob(kind))) for kind in ("vae-*", "text-*")] == [1, 2]
    build(tmp_path, other, pairs)
    assert encoded == [9, 9, 9, 9]
    assert [len(list(tmp_path.glob(kind))) for kind in ("vae-*", "text-*")] == [2, 2]


def with_config(model: DiffusionModel, **changes: Any) -> DiffusionModel:
    """The same weights in a text encoder that computes otherwise."""
    encoder = copy.deepcopy(model.text_encoders[0])
    encoder.config.update(changes)
    return replace(model, text_encoders=[encoder])


def test_what_changes_a_row_but_no_weight_has_a_folder_or_a_name_of_its_own(
    model: DiffusionModel, shards: Path, tmp_path: Path
) -> None:
    """Scale and shift of the latents, tokens, what stands for an empty prompt, an encoder's activation."""
    pairs = read_pairs(shards)

    def scaled(**config: float) -> DiffusionModel:
        vae = copy.deepcopy(model.vae)
        vae.register_to_config(**config)
        return replace(model, vae=vae)

    padded = tiny.tokenizer()
    padded.pad_token = "a"
    build(tmp_path, model, pairs)
    for other, pictures, prompts in (
        (scaled(scaling_factor=0.25), 0, 4),
        (scaled(shift_factor=0.1), 0, 4),
        (replace(model, tokenizers=[tiny.tokenizer(max_length=10)]), 9, 0),
        (replace(model, tokenizers=[padded]), 9, 0),
        (replace(model, zero_empty_prompt=True), 9, 3),
        (with_config(model, hidden_act="gelu"), 9, 0),
        (replace(model, tokenizers=[tiny.tokenizer()]), 9, 4),
    ):
        said = opened(tmp_path, other, pairs)[1]
        assert f"encoder 1: {prompts} reused" in said
        assert f"pictures: {pictures} reused" in said


def test_the_rows_do_not_depend_on_how_many_processes_fill_the_cache(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path
) -> None:
    build(tmp_path / "one", model, pairs)
    build(tmp_path / "five", model, pairs)
    (folder,) = (tmp_path / "five").glob("vae-*")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    pictures = PictureRows(tmp_path / "five", model, pairs, tiny.RESOLUTION_PX, views=2)
    for process in range(5):
        fill(pictures, {"32x32": list(range(len(pairs.images)))[process::5]}, CPU, QUIET)
    assert len(list(folder.glob("*.safetensors"))) == 5
    assert equal(rows(tmp_path / "five"), rows(tmp_path / "one"))


def test_a_killed_filling_goes_on_where_it_was(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    """With files of one chunk each, so that there are some; an interrupt keeps what is held, too."""
    build(tmp_path / "whole", model, pairs)
    monkeypatch.setattr(store_module, "FILE_BYTES", 1)
    counted = PictureRows.encode

    def interrupted(self: PictureRows, *arguments: Any, **named: Any) -> dict[str, torch.Tensor]:
        if len(encoded) == 3 + 2:
            raise KeyboardInterrupt
        return counted(self, *arguments, **named)

    monkeypatch.setattr(PictureRows, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "broken", model, pairs)
    (folder,) = (tmp_path / "broken").glob("vae-*")
    (folder / ".32x32-0123.safetensors.partial").write_text("what a killed writer left")
    monkeypatch.setattr(PictureRows, "encode", counted)
    build(tmp_path / "broken", model, pairs)
    assert encoded == [16, 16, 11] * 2
    assert equal(rows(tmp_path / "broken"), rows(tmp_path / "whole"))
    assert not list(folder.glob(".*.partial"))


def refusing(model: DiffusionModel, most: int, tried: list[int]) -> Any:
    """The VAE's `encode` on a device that has room for `most` pictures at once."""
    encode = model.vae.encode

    def limited(pixels: torch.Tensor) -> Any:
        tried.append(len(pixels))
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return encode(pixels)

    return limited


def test_fewer_pictures_at_once_where_memory_is_short(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "wide", model, pairs)
    tried: list[int] = []
    monkeypatch.setattr(model.vae, "encode", refusing(model, 5, tried))
    build(tmp_path / "narrow", model, pairs)
    assert tried[:3] == [16, 8, 4]
    assert set(tried[3:]) == {4}
    wide, narrow = rows(tmp_path / "wide"), rows(tmp_path / "narrow")
    assert wide.keys() == narrow.keys()
    for name, row in wide.items():
        torch.testing.assert_close(narrow[name], row, rtol=2e-3, atol=1e-5)


def test_a_lone_picture_is_halved_too_for_it_is_filled_up_to_as_many_as_others(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(model.vae, "encode", refusing(model, 5, tried))
    build(tmp_path, model, replace(pairs, pairs=[], images=pairs.images[:1], hashes=pairs.hashes[:1]), flips=False)
    assert tried == [16, 8, 4]


def test_no_room_for_one_picture(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.vae, "encode", refusing(model, 0, []))
    with pytest.raises(MemoryFullError) as caught:
        build(tmp_path, model, pairs)
    assert str(caught.value) == (
        "There is not enough memory to encode one picture: only the VAE is on the device yet, so smaller batches do not"
        " help. End what else runs there, lower data.resolution_px from 32, or fill the cache on a larger device: later"
        " runs find it."
    )


def test_one_encoder_at_a_time_is_on_the_device(
    sdxl: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = load(str(sdxl)), list[tuple[str, torch.device]]()
    real = torch.nn.Module.to

    def to(self: torch.nn.Module, *arguments: Any, **named: Any) -> torch.nn.Module:
        if self in (model.vae, *model.text_encoders):
            seen.append((type(self).__name__, torch.device(arguments[0])))
            assert self.dtype == torch.float32
        return real(self, *arguments, **named)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    build(tmp_path, model, read_pairs(shards))
    order = ["CLIPTextModel", "CLIPTextModelWithProjection", "AutoencoderKL"]
    assert [name for name, _ in seen] == [name for name in order for _ in ("on", "off")]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\0" * len(data)])
def test_a_file_that_is_damaged_is_named(model: DiffusionModel, shards: Path, tmp_path: Path, damage: Any) -> None:
    build(tmp_path, model, read_pairs(shards))
    (path,) = tmp_path.glob("vae-*/*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CacheError) as caught:
        build(tmp_path, model, read_pairs(shards))
    assert str(caught.value).startswith(f"{path} cannot be read (")
    assert str(caught.value).endswith("); remove it, and its rows are made again.")
    path.unlink()
    build(tmp_path, model, read_pairs(shards))


def test_a_disk_without_room_is_found_before_anything_is_encoded(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = len(pairs.images) * 2 * 2 * 4 * 16 * 16 * 2 + 4 * 12 * 16 * 2  # pictures, prompts
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(StorageError) as caught:
        build(tmp_path, model, pairs)
    assert str(caught.value) == (
        f"{tmp_path} needs {needed:,} bytes more for the latent cache, and its disk has {needed - 1:,}; make room, name"
        " a folder of another disk by --cache, or add --no-cache."
    )
    assert not rows(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    build(tmp_path, model, pairs)


@pytest.mark.parametrize("data", [b"", b"not an image", tiny.picture("red", 1)[:200]])
def test_an_image_that_cannot_be_decoded_is_named(model: DiffusionModel, tmp_path: Path, data: bytes) -> None:
    folder = tiny.write_shards(tmp_path / "shards", [tiny.sample(1, "red box", tiny.picture("red", 1), data)])
    with pytest.raises(ShardError) as caught:
        build(tmp_path / "cache", model, read_pairs(folder))
    message = str(caught.value)
    assert message.startswith(f"The image 000000001.rejected.png in {folder}/pairs-000000.tar cannot be decoded (")
    assert message.endswith("); drop it with `curate embed` and export again.")


def test_an_image_whose_bytes_are_not_those_of_its_hash(model: DiffusionModel, shards: Path, tmp_path: Path) -> None:
    """It would be found under that hash by every later run."""
    pairs = read_pairs(shards)
    pairs.hashes[1] = "0" * 64
    with pytest.raises(ShardError) as caught:
        build(tmp_path, model, pairs)
    assert str(caught.value) == (
        f"The image {pairs.images[1]} is not the one that its sample's `json` names; copy the shards again, or export"
        " them anew with `curate export-shards`."
    )


def test_a_vae_that_overflows_names_the_first_image_and_keeps_those_before(
    pairs: PairSet, tmp_path: Path, sd: Path, encoded: list[int]
) -> None:
    model = load(str(sd))
    encode, calls = model.vae.encode, list[int]()

    def overflowing(pixels: torch.Tensor) -> Any:
        found = encode(pixels)
        calls.append(len(pixels))
        if len(calls) == 3:  # two views of the first 16 come before
            found.latent_dist.mean[1] *= 1e30
        return found

    model.vae.encode = overflowing
    with pytest.raises(ModelError) as caught:
        build(tmp_path / "cache", model, pairs)
    assert str(caught.value) == (f"The VAE gives values that are not finite for the image {pairs.images[17]}: {ADVICE}")
    build(tmp_path / "cache", load(str(sd)), pairs)
    assert encoded == [16, 16, 11]
    build(tmp_path / "sound", load(str(sd)), pairs)
    assert equal(rows(tmp_path / "cache"), rows(tmp_path / "sound"))


def test_a_text_encoder_that_overflows_names_the_prompt(pairs: PairSet, tmp_path: Path, sd: Path) -> None:
    model = load(str(sd))
    embedding = cast(torch.nn.Embedding, model.text_encoders[0].get_input_embeddings())
    embedding.weight.data[16] = float("nan")  # the letter o
    with pytest.raises(ModelError, match=f"not finite for the prompt `{pairs.prompts[0]}`"):
        build(tmp_path, model, pairs)


def test_runs_of_any_precision_share_the_cache_beside_the_shards_and_name_it_otherwise(
    train: Train, own_shards: Path, sd: Path, recipe_file: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.toml"
    half.write_text(recipe_file.read_text() + 'mixed_precision = "bf16"\n')
    options = ("--shards", own_shards, "--model", sd, "--preset", "demo", "--steps", 1, "--config")
    assert "encode pictures 9/9" in train("run", *options, recipe_file, "--output", tmp_path / "one").err
    second = train("run", *options, half, "--output", tmp_path / "two").err
    assert "4 reused, 0 to encode; pictures: 9 reused, 0 to encode." in second
    assert "encode pictures" not in second
    shared = own_shards.parent / "latents"
    own = train("run", *options, recipe_file, "--output", tmp_path / "three", "--cache", tmp_path / "mine")
    assert "encode pictures 9/9" in own.err
    assert equal(rows(tmp_path / "mine"), rows(shared))
    shutil.rmtree(shared)
    direct = train("run", *options, recipe_file, "--output", tmp_path / "four", "--no-cache")
    assert (direct.code, "encode" in direct.err) == (0, False)
    assert not shared.exists()


def test_the_cache_of_a_split_is_that_of_the_whole_export(pairs: PairSet, tmp_path: Path) -> None:
    split = tmp_path / "run" / "shards" / "train"
    split.mkdir(parents=True)
    assert default_root(replace(pairs, folder=split.parent)) == tmp_path / "run" / "latents"
    (split.parent / "splits.json").write_text("{}")
    assert default_root(replace(pairs, folder=split)) == tmp_path / "run" / "latents"
    assert default_root(replace(pairs, folder=Path())) == Path("../latents")


def test_a_cache_where_nothing_can_be_written(
    train: Train, shards: Path, sd: Path, recipe_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    options = ("--shards", shards, "--model", sd, "--preset", "demo", "--config", recipe_file)
    result = train("run", *options, "--output", tmp_path / "out", "--cache", tmp_path / "file" / "cache")
    assert result.code == 1
    assert result.err.splitlines()[-1] == (
        f"train: {tmp_path}/file/cache cannot hold the latent cache (Not a directory);"
        " name a folder by --cache, or add --no-cache."
    )


def test_a_run_that_lacks_something_waits_for_the_one_that_fills_the_cache(
    model: DiffusionModel, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside an older version, which takes the flock of this very file itself."""
    first, said = (tmp_path / ".lock").open("w"), list[str]()
    fcntl.flock(first, fcntl.LOCK_EX)

    def say(self: Reporter, text: str) -> None:
        said.append(text)
        first.close()

    monkeypatch.setattr(Reporter, "say", say)
    with store_module.locked(tmp_path, Reporter(main=True)), (tmp_path / ".lock").open("w") as other:
        assert said == [f"Another run is filling {tmp_path}: waiting for it."]
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    build(tmp_path, model, read_pairs(shards))
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        build(tmp_path, model, read_pairs(shards))  # lacks nothing


def test_what_another_run_filled_meanwhile_is_not_encoded_again(
    model: DiffusionModel, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    pairs, real = read_pairs(shards), store_module.locked

    def late(folder: Path, reporter: Reporter) -> Any:
        monkeypatch.setattr(cache_module, "locked", real)
        build(tmp_path, model, pairs)
        return real(folder, reporter)

    monkeypatch.setattr(cache_module, "locked", late)
    build(tmp_path, model, pairs)
    assert encoded == [9]


def test_a_cached_run_equals_a_run_without_cache(
    train: Train, shards: Path, sd: Path, recipe_file: Path, tmp_path: Path
) -> None:
    """Up to the float16 of the cache."""
    options = (
        "--shards",
        shards,
        "--model",
        sd,
        "--preset",
        "demo",
        "--config",
        recipe_file,
        "--lora-rank",
        2,
        "--json",
    )
    cached = train("run", *options, "--output", tmp_path / "one").json()
    direct = train("run", *options, "--output", tmp_path / "two", "--no-cache").json()
    assert cached["policy_mse_preferred"] == pytest.approx(direct["policy_mse_preferred"], rel=2e-3)
    assert torch.isfinite(torch.tensor(direct["loss"]))
