import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import tiny
from tests.train.caches import build
from train.config import load_recipe
from train.data import latents as latents_module
from train.data.latent_cache.cache import LatentCache
from train.data.latents import OnTheFly, assemble
from train.data.pairs import PairSet, read_pairs
from train.data.random_draws import Draw, draw
from train.errors import ModelError
from train.model.families import DiffusionModel, encode_prompts, load

DATA = replace(load_recipe("demo").data, flips=True)


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
    drawn, _ = cache.encoded([3], noise[None], [flipped], [0])
    torch.testing.assert_close(drawn[0], mean + std * noise, rtol=2e-3, atol=2e-3)  # stored in float16
    assert not torch.equal(drawn, cache.encoded([3], -noise[None], [flipped], [0])[0])


def test_both_images_of_a_pair_share_flip_noise_and_timestep(
    cache: LatentCache, model: DiffusionModel, pairs: PairSet
) -> None:
    silent = torch.zeros(2, 4, 16, 16).numpy()
    for flipped in (False, True):
        batch = assemble(cache, pairs, draws(2, flipped=flipped, posterior_noise=silent))
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
        batch = assemble(cache, pairs, draws(2, prompt_dropped=dropped))
        prompts = [] if dropped else [pairs.prompts[pairs.pairs[place].prompt] for place in range(2)]
        expected = encode_prompts(model, prompts or ["", ""]).prompt_embeds
        assert batch.conditioning.prompt_embeds.shape[0] == 4
        torch.testing.assert_close(batch.conditioning.prompt_embeds[:2], expected, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(batch.conditioning.prompt_embeds[2:], expected, rtol=2e-3, atol=2e-3)


def test_encoding_on_the_fly_gives_the_cached_batch(cache: LatentCache, model: DiffusionModel, pairs: PairSet) -> None:
    """Up to the cache's float16, with flips that differ within the batch and dropped prompts among others."""
    some = [replace(one, flipped=place % 2 == 0, prompt_dropped=place == 1) for place, one in enumerate(draws(4))]
    cached, direct = (assemble(source, pairs, some) for source in (cache, OnTheFly(model, pairs, tiny.RESOLUTION_PX)))
    torch.testing.assert_close(cached.latents, direct.latents, rtol=2e-3, atol=2e-3)
    embeds = cached.conditioning.prompt_embeds, direct.conditioning.prompt_embeds
    torch.testing.assert_close(*embeds, rtol=2e-3, atol=2e-3)
    assert torch.equal(cached.noise, direct.noise)


def test_without_a_cache_pictures_are_read_by_several_threads_and_stay_in_order(
    cache: LatentCache, model: DiffusionModel, pairs: PairSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, real = threading.Barrier(2, timeout=60), latents_module.read_crop

    def together(*arguments: Any) -> Any:
        both.wait()  # until another picture is being read
        return real(*arguments)

    cached = assemble(cache, pairs, draws(4))
    monkeypatch.setattr(latents_module, "read_crop", together)
    direct = assemble(OnTheFly(model, pairs, tiny.RESOLUTION_PX), pairs, draws(4))
    torch.testing.assert_close(cached.latents, direct.latents, rtol=2e-3, atol=2e-3)


def test_without_a_cache_fewer_large_pictures_are_encoded_at_once(model: DiffusionModel, pairs: PairSet) -> None:
    """For what a VAE needs grows with the area."""
    assert [OnTheFly(model, pairs, side_px).at_once.count for side_px in (64, 512, 1024, 1536)] == [16, 4, 1, 1]


def test_a_vae_that_overflows_names_the_image_without_a_cache_too(
    model: DiffusionModel, pairs: PairSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = model.vae.encode

    def overflowing(pixels: torch.Tensor) -> Any:
        found = encode(pixels)
        found.latent_dist.mean[3, 0, 0, 0] = float("inf")
        return found

    monkeypatch.setattr(model.vae, "encode", overflowing)
    with pytest.raises(ModelError) as caught:
        assemble(OnTheFly(model, pairs, tiny.RESOLUTION_PX), pairs, draws(3))
    lost = pairs.images[pairs.pairs[0].rejected]  # the fourth of six: three preferred come first
    assert str(caught.value) == (
        f"The VAE gives values that are not finite for the image {lost}: its weights are broken, or its numbers too"
        ' large for float16, which the cache keeps; take another, or --no-cache with run.mixed_precision = "bf16".'
    )


def test_sdxl_is_told_each_image_s_own_size_and_cut(sdxl: Path, tmp_path: Path) -> None:
    wide, small = tiny.picture("red", 1, (64, 40)), tiny.picture("blue", 2, (16, 16))
    pairs = read_pairs(tiny.write_shards(tmp_path / "shards", [tiny.sample(1, "red box", wide, small)]))
    model = load(str(sdxl))
    for source in (build(tmp_path / "cache", model, pairs, flips=False), OnTheFly(model, pairs, tiny.RESOLUTION_PX)):
        conditioning = assemble(source, pairs, draws(1, flipped=False)).conditioning
        assert conditioning.time_ids is not None
        # 40 px become 32, so 64 become 51; (51 - 32) // 2 = 9 are cut on the left.
        assert conditioning.time_ids.tolist() == [[40, 64, 0, 9, 32, 32], [16, 16, 0, 0, 32, 32]]
        assert conditioning.pooled_embeds is not None
        assert conditioning.pooled_embeds.shape == (2, 24)
