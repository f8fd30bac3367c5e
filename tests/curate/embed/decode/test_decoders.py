"""Every way to decode gives upright pictures of known size, and Pillow's own reasons for what is broken."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from curate.embed.decode.decoders import (
    DecodedOnDevice,
    PillowDecoder,
    TorchvisionDecoder,
    check_decode,
    choose_decoder,
)
from curate.embed.decode.steps import ForPillow
from curate.embed.decode.taken_apart import needed_side_px, taken_apart
from curate.errors import UsageError
from curate.models.model_set import load_model_set
from curate.models.scoring import load_scoring
from curate.sources.images import Decoded, Rejected, decode
from tests.curate.builders import MODELS, picture_bytes

EXIF_ORIENTATION = 0x0112


@pytest.fixture
def on_cpu() -> TorchvisionDecoder:
    """The decoder that runs nvJPEG on a GPU; on the CPU the same code runs libjpeg-turbo."""
    return TorchvisionDecoder("cpu")


def jpeg(turn: int = 1, form: str = "RGB") -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = turn
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture_bytes(3, (90, 60), "PNG"))).convert(form).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_honoured(on_cpu: TorchvisionDecoder, turn: int) -> None:
    found, expected = on_cpu([jpeg(turn)])[0], decode(jpeg(turn))
    assert isinstance(found, DecodedOnDevice)
    assert isinstance(expected, Decoded)
    assert (found.width, found.height, found.format) == (*expected.image.size, "JPEG")
    ours, pillows = found.image.permute(1, 2, 0).numpy().astype(int), np.asarray(expected.image, dtype=int)
    assert ours.shape == pillows.shape
    assert np.abs(ours - pillows).max() <= 4


def test_what_is_no_whole_rgb_jpeg_goes_to_pillow_in_its_place(on_cpu: TorchvisionDecoder) -> None:
    whole = jpeg()
    png = picture_bytes(1, (20, 10), "PNG")
    stored_as_rgb = io.BytesIO()
    Image.open(io.BytesIO(png)).save(stored_as_rgb, "JPEG", keep_rgb=True)
    others = [None, b"", whole[: len(whole) // 2], jpeg(form="L"), jpeg(form="CMYK"), stored_as_rgb.getvalue()]
    mixed = [png, whole, *others, whole, b"\xff\xd8\xff"]
    found = on_cpu(mixed)
    assert [isinstance(one, DecodedOnDevice) for one in found] == [data is whole for data in mixed]
    for one, data in zip(found, mixed, strict=True):
        expected = decode(data)
        if isinstance(expected, Rejected):
            assert one == expected
        else:
            assert not isinstance(one, Rejected)
            assert (one.width, one.height) == (expected.width, expected.height)


def test_a_jpeg_that_torchvision_fails_on_costs_the_others_nothing(on_cpu: TorchvisionDecoder) -> None:
    whole = jpeg()
    start_of_scan = whole.index(b"\xff\xda")
    headless = whole[:start_of_scan] + b"\xff\xd9"  # a sound header, an end, and nothing between them
    found = on_cpu([whole, headless, whole])
    assert isinstance(found[0], DecodedOnDevice)
    assert isinstance(found[2], DecodedOnDevice)
    assert found[1] == decode(headless)
    assert isinstance(found[1], Rejected)


def test_pixels_of_a_tensor_are_those_of_the_picture(on_cpu: TorchvisionDecoder) -> None:
    models = load_model_set(MODELS)
    scoring = load_scoring(models, models.choose(["clip", "pickscore", "hpsv2"]), "cpu", "fp32")
    data = picture_bytes(5, (200, 150))
    found, expected = on_cpu([data])[0], decode(data)
    assert isinstance(found, DecodedOnDevice)
    assert isinstance(expected, Decoded)
    for preprocess in scoring.preprocessors.values():
        assert needed_side_px(preprocess) == 64
        steps = taken_apart(preprocess)
        assert steps
        ours, theirs = steps(found.image), preprocess(expected.image)
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 0.05  # three steps of 1/255, over a standard deviation of 0.26
        assert torch.equal(steps(expected.image), theirs)


def test_an_unknown_preprocessing_gets_the_picture(on_cpu: TorchvisionDecoder) -> None:
    def tiny(image: Image.Image) -> torch.Tensor:
        return torch.as_tensor(np.array(image.resize((8, 6)))).permute(2, 0, 1).float()

    found = on_cpu([jpeg()])[0]
    assert isinstance(found, DecodedOnDevice)
    assert taken_apart(tiny) is None
    assert ForPillow(tiny)(found.image).shape == (3, 6, 8)
    assert needed_side_px(tiny) == 8


def test_a_decoder_of_pillows_pickles() -> None:
    decoder = choose_decoder("scaled", "cpu", 64)
    assert decoder == pickle.loads(pickle.dumps(decoder)) == PillowDecoder(64)  # noqa: S301
    assert choose_decoder("pillow", "cpu", 64) == PillowDecoder(None)


def test_ways_that_are_not_there() -> None:
    with pytest.raises(UsageError, match=r"^--decode turbo: choose pillow, scaled, nvjpeg$"):
        check_decode("turbo", "cuda")
    with pytest.raises(
        UsageError, match=r"^--decode nvjpeg needs a CUDA device, and this run is on cpu; use pillow or scaled$"
    ):
        check_decode("nvjpeg", "cpu")


@pytest.mark.gpu
def test_nvjpeg_is_near_pillow() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    found = choose_decoder("nvjpeg", "cuda", 64)([jpeg(turn) for turn in range(1, 9)])
    for one, turn in zip(found, range(1, 9), strict=True):
        assert isinstance(one, DecodedOnDevice)
        expected = decode(jpeg(turn))
        assert isinstance(expected, Decoded)
        deltas = one.image.permute(1, 2, 0).cpu().numpy().astype(int) - np.asarray(expected.image, dtype=int)
        assert np.abs(deltas).mean() < 3
