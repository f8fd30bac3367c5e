import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.shards import META, PREFERRED, PROMPT, REJECTED, SHARD_INDEX
from tests.train import tiny
from train.data.pairs import read_pairs
from train.errors import ShardError

AGAIN = "copy the shards again, or export them anew with `curate export-shards`."


def refused(folder: Path, *, verify: bool = True) -> str:
    with pytest.raises(ShardError) as caught:
        read_pairs(folder, verify=verify)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_what_was_written_is_read(shards: Path) -> None:
    samples, found = tiny.samples(6), read_pairs(shards)
    assert len(found.pairs) == 6
    for pair, sample in zip(found.pairs, samples, strict=True):
        assert found.prompts[pair.prompt].encode() == sample.members[PROMPT]
        assert found.images[pair.preferred].read() == sample.members[f"{PREFERRED}.png"]
        assert found.images[pair.rejected].read() == sample.members[f"{REJECTED}.png"]


def test_equal_images_and_prompts_are_taken_once(tmp_path: Path) -> None:
    winner = tiny.picture("red", 1)
    samples = [tiny.sample(rank, "red box", winner, tiny.picture("blue", rank)) for rank in (1, 2, 3)]
    found = read_pairs(tiny.write_shards(tmp_path / "shards", samples))
    assert found.counts() == {"pairs": 3, "unique_images": 4, "unique_prompts": 1}
    assert {pair.preferred for pair in found.pairs} == {0}


def test_no_index(tmp_path: Path) -> None:
    assert refused(tmp_path) == (f"{tmp_path} has no shards.json; give the folder that `curate export-shards` wrote.")


def test_an_index_of_another_format(own_shards: Path) -> None:
    path = own_shards / SHARD_INDEX
    path.write_text("[]")
    assert refused(own_shards) == f"{path} is not an index of format pairsieve-shards-1; {AGAIN}"
    path.write_text("{")
    assert refused(own_shards) == f"{path} cannot be read as JSON; {AGAIN}"


def test_a_missing_tar(own_shards: Path) -> None:
    path = own_shards / "pairs-000001.tar"
    path.unlink()
    assert refused(own_shards) == f"{path} is missing, but shards.json lists it; {AGAIN}"


def test_a_truncated_tar(own_shards: Path) -> None:
    path = own_shards / "pairs-000000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    assert refused(own_shards) == f"{path} has 5000 bytes, shards.json says {len(whole)}; {AGAIN}"
    tiny.reseal(own_shards)
    assert refused(own_shards) == f"{path} is not a whole tar file (unexpected end of data); {AGAIN}"


def test_a_changed_byte(own_shards: Path) -> None:
    path = own_shards / "pairs-000000.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    assert refused(own_shards) == f"{path} is not the file that shards.json describes: its sha256 differs; {AGAIN}"
    assert len(read_pairs(own_shards, verify=False).pairs) == 6


@pytest.mark.parametrize("member", [f"{PREFERRED}.png", f"{REJECTED}.png", PROMPT, META])
def test_a_missing_member(tmp_path: Path, member: str) -> None:
    samples = tiny.samples(2)
    del samples[1].members[member]
    folder = tiny.write_shards(tmp_path / "shards", samples)
    assert refused(folder) == (
        f"Sample 000000002 of {folder}/pairs-000000.tar has no member `{member.partition('.')[0]}`; {AGAIN}"
    )


def test_a_sample_too_few(own_shards: Path) -> None:
    index = json.loads((own_shards / SHARD_INDEX).read_text())
    index["shards"][1]["samples"] = 3
    tiny.write_index(own_shards, index["shards"])
    assert refused(own_shards) == f"{own_shards}/pairs-000001.tar holds 2 samples, shards.json says 3; {AGAIN}"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda members: members | {META: b"{"},
        lambda members: members | {META: b"{}"},
        lambda members: members | {META: b"[]"},
        lambda members: members | {PROMPT: b"\xff"},
    ],
)
def test_a_broken_text_member(tmp_path: Path, spoil: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    samples = tiny.samples(1)
    samples[0].members = spoil(samples[0].members)
    folder = tiny.write_shards(tmp_path / "shards", samples)
    assert refused(folder) == (f"Sample 000000001 of {folder}/pairs-000000.tar has a broken `json` or `txt`; {AGAIN}")


@pytest.mark.parametrize("tars", [[], [[]]])
def test_no_pairs(tmp_path: Path, tars: list[list[tiny.ShardSample]]) -> None:
    folder = tiny.write_shards(tmp_path / "shards", *tars)
    assert refused(folder) == f"{folder} holds no pairs; rank with a larger --top and export again."


def test_a_tar_of_another_compression_is_not_guessed(own_shards: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz"):
        pass
    (own_shards / "pairs-000000.tar").write_bytes(buffer.getvalue())
    tiny.reseal(own_shards)
    assert refused(own_shards).startswith(f"{own_shards}/pairs-000000.tar is not a whole tar file (")


def test_folder_of_splits_names_one(tmp_path: Path) -> None:
    tiny.write_shards(tmp_path / "shards" / "train", tiny.samples(3))
    assert refused(tmp_path / "shards") == (
        f"{tmp_path}/shards has no shards.json; it holds splits; give the folder of one of them, such as "
        f"{tmp_path}/shards/train."
    )


def test_shuffled_shards_are_read_in_rank_order(tmp_path: Path) -> None:
    """A curriculum goes by rank, whatever the order in the tars."""
    samples = tiny.samples(6)
    plain = read_pairs(tiny.write_shards(tmp_path / "plain", samples[:4], samples[4:]))
    halves = [samples[4], samples[1], samples[5]], [samples[0], samples[3], samples[2]]
    mixed = read_pairs(tiny.write_shards(tmp_path / "mixed", *halves))
    qualities = [found.value("quality", "data.order").tolist() for found in (plain, mixed)]
    assert qualities[0] == qualities[1] == [1 / rank for rank in range(1, 7)]
    shown = [[found.prompts[pair.prompt] for pair in found.pairs] for found in (plain, mixed)]
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("judgement", "said"),
    [
        ({"preference": None}, "its `preference` is null"),
        ({"preference": 0.5}, "its `preference` is 0.5"),
        ({"label_0": 0.5, "label_1": 0.5}, "its `label_0` is 0.5"),
        ({"label_1": None}, "its `label_1` is null"),
        ({"has_label": False}, "its `has_label` is false"),
        ({"preference": "tie"}, 'its `preference` is "tie"'),
    ],
)
def test_ties_cannot_enter(tmp_path: Path, judgement: dict[str, object], said: str) -> None:
    samples = tiny.samples(2)
    samples[1].members[META] = json.dumps(json.loads(samples[1].members[META]) | judgement).encode()
    folder = tiny.write_shards(tmp_path / "shards", samples)
    assert refused(folder) == (
        f"Sample 000000002 of {folder}/pairs-000000.tar prefers neither side: {said}; a tie would be trained on as a"
        " win: rank and export again, which sets ties aside."
    )


def test_a_judged_pair_enters_whatever_says_so(tmp_path: Path) -> None:
    samples = tiny.samples(1)
    judged = {"preference": 0, "label_0": 1.0, "label_1": 0.0, "has_label": True}
    samples[0].members[META] = json.dumps(json.loads(samples[0].members[META]) | judged).encode()
    assert len(read_pairs(tiny.write_shards(tmp_path / "shards", samples)).pairs) == 1


def test_one_image_on_both_sides_is_a_tie(tmp_path: Path) -> None:
    picture = tiny.picture("red", 1)
    folder = tiny.write_shards(tmp_path / "shards", [tiny.sample(1, "red box", picture, picture)])
    assert "000000001 of" in refused(folder)
    assert "prefers neither side: both are the same image;" in refused(folder)


def test_another_web_dataset_of_pairs_is_refused_even_with_an_index(tmp_path: Path) -> None:
    """Sides by number and a label beside them, as Pick-a-Pic's WebDataset copies have it: a label may say tie."""
    members = {"jpg_0": tiny.picture("red", 1), "jpg_1": tiny.picture("blue", 2), "label_0": b"0.5", PROMPT: b"red box"}
    folder = tiny.write_shards(tmp_path / "shards", [tiny.ShardSample("000000001", members)])
    assert refused(folder) == f"Sample 000000001 of {folder}/pairs-000000.tar has no member `preferred`; {AGAIN}"
    (folder / SHARD_INDEX).unlink()
    assert refused(folder) == f"{folder} has no shards.json; give the folder that `curate export-shards` wrote."


def test_a_score_that_was_not_finite_has_no_margin(tmp_path: Path) -> None:
    """It is null in a sample; the other scorers' margins stand, and only who asks for this one is refused."""
    samples = tiny.samples(2)
    meta = json.loads(samples[0].members[META])
    meta["scores"]["odd"] = {PREFERRED: None, REJECTED: 0.5}
    samples[0].members[META] = json.dumps(meta).encode()
    found = read_pairs(tiny.write_shards(tmp_path / "shards", samples))
    assert "odd_margin" not in found.values
    assert found.value("clip_margin", "objective.offset_by").tolist() == [0.5, 0.25]
