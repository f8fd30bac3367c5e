from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train import tiny
from train.config import load_recipe
from train.draws import Draw, draw
from train.errors import ShardError
from train.latents import LatentCache, assemble, build_cache
from train.models import DiffusionModel, encode_prompts, load
from train.pairs import PairSet, read_pairs

CPU = torch.device("cpu")
DATA = replace(load_recipe("demo").data, flips=True)


def build(folder: Path, model: DiffusionModel, pairs: PairSet, *, flips: bool = True, parts: int = 1) -> LatentCache:
    for rank in range(parts):
        build_cache(
            folder,
            model,
            pairs,
            resolution_px=tiny.RESOLUTION_PX,
            flips=flips,
            rank=rank,
            parts=parts,
            progress=lambda done, total: None,
        )
    return LatentCache(folder, parts)


def draws(count: int, **changes: object) -> list[Draw]:
    return [
        replace(
            draw(0, 0, place, pair=place, timesteps=1000, latent_shape=(4, 16, 16), data=DATA),
            **changes,  # type: ignore[arg-type]
        )
        for place in range(count)
    ]


@pytest.fixture(scope="module")
def model(sd: Path) -> DiffusionModel:
    return load(str(sd))


@pytest.fixture(scope="module")
def pairs(shards: Path) -> PairSet:
    return read_pairs(shards)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, model: DiffusionModel, pairs: PairSet) -> LatentCache:
    return build(tmp_path_factory.mktemp("cache"), model, pairs)


def plain_posterior(model: DiffusionModel, pairs: PairSet, image: int, *, flipped: bool) -> tuple[torch.Tensor, ...]:
    """Mean and deviation by the VAE alone, without the code under test."""
    import io

    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(pairs.images[image].read()))).astype(np.float32)
    pixels = pixels[:, ::-1].copy() if flipped else pixels
    with torch.no_grad():
        encoded = model.vae.encode(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]).latent_dist
    return encoded.mean[0] * 0.5, encoded.std[0] * 0.5  # tiny.vae has scaling_factor 0.5


@pytest.mark.parametrize("flipped", [False, True])
def test_latents_are_draws_from_the_posterior(
    cache: LatentCache, model: DiffusionModel, pairs: PairSet, flipped: bool
) -> None:
    noise = torch.randn(4, 16, 16)
    mean, std = plain_posterior(model, pairs, 3, flipped=flipped)
    drawn = cache.latents(3, noise, flipped=flipped)
    torch.testing.assert_close(drawn, mean + std * noise, rtol=2e-3, atol=2e-3)  # stored in float16
    assert not torch.equal(drawn, cache.latents(3, -noise, flipped=flipped))


def test_both_images_of_a_pair_share_flip_noise_and_timestep(
    cache: LatentCache, model: DiffusionModel, pairs: PairSet
) -> None:
    silent = torch.zeros(2, 4, 16, 16).numpy()
    for flipped in (False, True):
        batch = assemble(cache, pairs, draws(2, flipped=flipped, posterior_noise=silent), CPU)
        for side, image in enumerate((pairs.pairs[0].preferred, pairs.pairs[0].rejected)):
            mean, _ = plain_posterior(model, pairs, image, flipped=flipped)
            torch.testing.assert_close(batch.latents[side, 0], mean, rtol=2e-3, atol=2e-3)
    latents, noise, timesteps = batch.both_sides()
    assert torch.equal(latents, torch.cat([batch.latents[0], batch.latents[1]]))
    assert torch.equal(noise[:2], noise[2:])
    assert torch.equal(timesteps[:2], timesteps[2:])


def test_posterior_noise_differs_between_the_sides(cache: LatentCache, pairs: PairSet) -> None:
    assert not torch.equal(*torch.from_numpy(draws(1)[0].posterior_noise))


def test_prompts_are_the_pair_s_own_or_empty(cache: LatentCache, model: DiffusionModel, pairs: PairSet) -> None:
    for dropped in (False, True):
        batch = assemble(cache, pairs, draws(2, prompt_dropped=dropped), CPU)
        prompts = [] if dropped else [pairs.prompts[pairs.pairs[place].prompt] for place in range(2)]
        expected = encode_prompts(model, prompts or ["", ""]).prompt_embeds
        assert batch.conditioning.prompt_embeds.shape[0] == 4
        torch.testing.assert_close(batch.conditioning.prompt_embeds[:2], expected, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(batch.conditioning.prompt_embeds[2:], expected, rtol=2e-3, atol=2e-3)


def test_a_batch_does_not_depend_on_how_the_cache_was_shared_out(
    cache: LatentCache, model: DiffusionModel, pairs: PairSet, tmp_path: Path
) -> None:
    shared = build(tmp_path, model, pairs, parts=5)  # more parts than prompts: some hold no prompt
    one, other = (assemble(which, pairs, draws(6), CPU) for which in (cache, shared))
    torch.testing.assert_close(one.latents, other.latents, rtol=2e-3, atol=2e-3)  # other batches, other rounding
    torch.testing.assert_close(one.conditioning.prompt_embeds, other.conditioning.prompt_embeds, rtol=0, atol=1e-3)


def test_sdxl_is_told_each_image_s_own_size_and_cut(sdxl: Path, tmp_path: Path) -> None:
    wide, small = tiny.picture("red", 1, (64, 40)), tiny.picture("blue", 2, (16, 16))
    pairs = read_pairs(tiny.write_shards(tmp_path / "shards", [tiny.sample(1, "red box", wide, small)]))
    cache = build(tmp_path / "cache", load(str(sdxl)), pairs, flips=False)
    conditioning = assemble(cache, pairs, draws(1, flipped=False), CPU).conditioning
    assert conditioning.time_ids is not None
    # 40 px become 32, so 64 become 51; (51 - 32) // 2 = 9 are cut on the left.
    assert conditioning.time_ids.tolist() == [[40, 64, 0, 9, 32, 32], [16, 16, 0, 0, 32, 32]]
    assert conditioning.pooled_embeds is not None
    assert conditioning.pooled_embeds.shape == (2, 24)


def test_a_cache_that_stands_is_not_built_again(model: DiffusionModel, pairs: PairSet, tmp_path: Path) -> None:
    build(tmp_path, model, pairs)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    build(tmp_path, model, pairs)
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("data", [b"", b"not an image", tiny.picture("red", 1)[:200]])
def test_an_image_that_cannot_be_decoded_is_named(model: DiffusionModel, tmp_path: Path, data: bytes) -> None:
    folder = tiny.write_shards(tmp_path / "shards", [tiny.sample(1, "red box", tiny.picture("red", 1), data)])
    with pytest.raises(ShardError) as caught:
        build(tmp_path / "cache", model, read_pairs(folder))
    message = str(caught.value)
    assert message.startswith(f"The image 000000001.rejected.png in {folder}/pairs-000000.tar cannot be decoded (")
    assert message.endswith("); drop it with `curate embed` and export again.")
    assert list((tmp_path / "cache").glob("*")) == []
