import copy
import fcntl
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from tests.train import tiny
from tests.train.caches import build
from tests.train.conftest import Train
from train.data import latent_cache as cache_module
from train.data.latent_cache import cache_key, default_folder, fill
from train.data.pairs import PairSet, read_pairs
from train.errors import CacheError, ModelError, ShardError, StorageError
from train.model.families import DiffusionModel, load
from train.terminal import Reporter


@pytest.fixture(scope="module")
def model(sd: Path) -> DiffusionModel:
    return load(str(sd))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    """Forty pairs: more images than a chunk holds."""
    return read_pairs(tiny.write_shards(tmp_path_factory.mktemp("many") / "shards", tiny.samples(40)))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


def test_the_cache_does_not_depend_on_how_many_processes_fill_it(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path
) -> None:
    build(tmp_path / "one", model, pairs)
    build(tmp_path / "five", model, pairs, processes=5)
    assert files(tmp_path / "one") == files(tmp_path / "five")


def test_it_is_mapped_not_read(model: DiffusionModel, pairs: PairSet, tmp_path: Path) -> None:
    assert all(isinstance(array, np.memmap) for array in build(tmp_path, model, pairs).arrays.values())


def test_a_killed_filling_goes_on_where_it_was(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "whole", model, pairs)
    encoded: list[int] = []
    real = cache_module._write_images

    def counted(arrays: dict[str, np.ndarray], chunk: cache_module.Chunk, *rest: object) -> None:
        encoded.append(chunk.first_row)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        real(arrays, chunk, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module, "FLUSH_EVERY_CHUNKS", 1)
    monkeypatch.setattr(cache_module, "_write_images", counted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "broken", model, pairs)
    assert encoded == [0, 16, 32]
    build(tmp_path / "broken", model, pairs)
    assert encoded[3:] == [32]
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_the_key_tells_models_sizes_and_shards_apart(model: DiffusionModel, pairs: PairSet, tmp_path: Path) -> None:
    plain = cache_key(model, pairs, resolution_px=32, flips=True)
    assert plain == cache_key(model, pairs, resolution_px=32, flips=True)
    other = load(str(tiny.save_sd(tmp_path / "other", seed=1)))
    others = [
        cache_key(other, pairs, resolution_px=32, flips=True),
        cache_key(model, pairs, resolution_px=64, flips=True),
        cache_key(model, pairs, resolution_px=32, flips=False),
        cache_key(model, read_pairs(tiny.write_shards(tmp_path / "s", tiny.samples(2))), resolution_px=32, flips=True),
    ]
    folders = {default_folder(pairs, key) for key in (plain, *others)}
    assert len(folders) == 5
    assert {folder.parent for folder in folders} == {pairs.folder.parent / "latents"}
    assert default_folder(replace(pairs, folder=Path()), plain).parent == Path("../latents")


def test_the_key_tells_apart_what_changes_the_cache_but_no_weight(
    model: DiffusionModel, pairs: PairSet, sdxl: Path
) -> None:
    """Scale and shift of the latents, tokens, and what stands for an empty prompt."""

    def key(other: DiffusionModel) -> dict[str, Any]:
        return cache_key(other, pairs, resolution_px=32, flips=True)

    def scaled(**config: float) -> DiffusionModel:
        vae = copy.deepcopy(model.vae)
        vae.register_to_config(**config)
        return replace(model, vae=vae)

    def read_by(*tokenizers: CLIPTokenizer) -> DiffusionModel:
        return replace(model, tokenizers=list(tokenizers))

    padded = tiny.tokenizer()
    padded.pad_token = "a"
    others = [
        scaled(scaling_factor=0.25),
        scaled(shift_factor=0.1),
        read_by(tiny.tokenizer(max_length=10)),
        read_by(padded),
        replace(model, zero_empty_prompt=True),
    ]
    keys = [key(model), *map(key, others)]
    assert len({default_folder(pairs, one) for one in keys}) == len(keys)
    assert key(read_by(tiny.tokenizer())) == key(scaled()) == key(model)
    two = load(str(sdxl))
    assert key(replace(two, tokenizers=[two.tokenizers[0], padded])) != key(two)


def test_a_model_of_another_family_than_the_cache(
    model: DiffusionModel, pairs: PairSet, sdxl: Path, tmp_path: Path
) -> None:
    build(tmp_path, model, pairs)
    with pytest.raises(CacheError) as caught:
        build(tmp_path, load(str(sdxl)), pairs)
    assert str(caught.value) == (
        f"{tmp_path} holds the latents of another model or other shards (its family is sd, this run's sdxl);"
        " name another --cache, or remove it."
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_cache_whose_index_is_broken(model: DiffusionModel, pairs: PairSet, tmp_path: Path, text: str) -> None:
    build(tmp_path, model, pairs)
    (tmp_path / "cache.json").write_text(text)
    with pytest.raises(CacheError) as caught:
        build(tmp_path, model, pairs)
    assert str(caught.value) == f"{tmp_path / 'cache.json'} cannot be read; remove {tmp_path}, and it is made again."


def test_a_disk_without_room_is_found_before_anything_is_encoded(
    model: DiffusionModel, pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"moments-32x32.npy could not be written \(No space left on device\);"):
        build(tmp_path / "cache", model, pairs)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"not an image", tiny.picture("red", 1)[:200]])
def test_an_image_that_cannot_be_decoded_is_named(model: DiffusionModel, tmp_path: Path, data: bytes) -> None:
    folder = tiny.write_shards(tmp_path / "shards", [tiny.sample(1, "red box", tiny.picture("red", 1), data)])
    with pytest.raises(ShardError) as caught:
        build(tmp_path / "cache", model, read_pairs(folder))
    message = str(caught.value)
    assert message.startswith(f"The image 000000001.rejected.png in {folder}/pairs-000000.tar cannot be decoded (")
    assert message.endswith("); drop it with `curate embed` and export again.")


def test_a_vae_that_overflows_names_the_first_image_and_leaves_it_undone(
    pairs: PairSet, tmp_path: Path, sd: Path
) -> None:
    model = load(str(sd))
    encode = model.vae.encode

    def overflowing(pixels: torch.Tensor) -> Any:
        found = encode(pixels)
        found.latent_dist.mean[1] *= 1e30
        return found

    model.vae.encode = overflowing
    with pytest.raises(ModelError) as caught:
        build(tmp_path / "cache", model, pairs)
    assert str(caught.value) == (
        f"The VAE gives values that are not finite for the image {pairs.images[1]}: its weights are broken, or its"
        ' numbers grow too large for float32; try run.mixed_precision = "bf16", or another VAE.'
    )
    build(tmp_path / "cache", load(str(sd)), pairs)
    build(tmp_path / "sound", load(str(sd)), pairs)
    assert files(tmp_path / "cache") == files(tmp_path / "sound")


def test_a_full_cache_is_not_encoded_again(model: DiffusionModel, pairs: PairSet, tmp_path: Path) -> None:
    build(tmp_path, model, pairs)
    before = files(tmp_path)
    frozen = load(str(tiny.save_sd(tmp_path / "other", seed=1)))  # whose latents would differ
    fill(tmp_path, frozen, pairs, Reporter(main=False), resolution_px=tiny.RESOLUTION_PX)
    assert files(tmp_path) == before


def test_runs_share_the_cache_beside_the_shards_and_name_it_otherwise(
    train: Train, own_shards: Path, sd: Path, recipe_file: Path, tmp_path: Path
) -> None:
    options = ("--shards", own_shards, "--model", sd, "--preset", "demo", "--config", recipe_file, "--steps", 1)
    assert "encode chunks 2/2" in train("run", *options, "--output", tmp_path / "one").err
    assert "encode chunks" not in train("run", *options, "--output", tmp_path / "two").err
    (shared,) = (own_shards.parent / "latents").iterdir()
    own = train("run", *options, "--output", tmp_path / "three", "--cache", tmp_path / "mine")
    assert "encode chunks 2/2" in own.err
    assert files(tmp_path / "mine") == files(shared)
    shutil.rmtree(own_shards.parent / "latents")
    direct = train("run", *options, "--output", tmp_path / "four", "--no-cache")
    assert (direct.code, "encode chunks" in direct.err) == (0, False)
    assert not (own_shards.parent / "latents").exists()


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


def test_a_second_run_waits_for_the_one_that_fills_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside an older version, which takes the flock of this very file itself."""
    first, said = (tmp_path / ".lock").open("w"), list[str]()
    fcntl.flock(first, fcntl.LOCK_EX)

    def say(self: Reporter, text: str) -> None:
        said.append(text)
        first.close()

    monkeypatch.setattr(Reporter, "say", say)
    with cache_module._locked(tmp_path, Reporter(main=True)), (tmp_path / ".lock").open("w") as other:
        assert said == [f"Another run is filling {tmp_path}: waiting for it."]
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
