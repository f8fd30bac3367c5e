"""Downloads of weights: whole or not there, checked, once, and every failure says why in one sentence."""

import errno
import hashlib
import multiprocessing
from pathlib import Path

import pytest
from huggingface_hub.utils import enable_progress_bars

from curate.errors import CurateError, ManifestError, ModelError
from curate.models.model_set import load_model_set
from curate.models.weights import _bar, checked_sha256, fetched, repository, weights_file
from curate.storage import files
from tests.curate.web import COMMIT, Web

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


def refused(location: str, folder: Path, sha256: str | None = None) -> str:
    """What the failing download of a location says."""
    with pytest.raises(CurateError) as caught:
        weights_file(location, folder, sha256)
    return str(caught.value)


def cached(folder: Path) -> list[Path]:
    return [path for path in (folder / "home").rglob("*") if path.is_file()]


def test_a_url_is_downloaded_once_and_stays(web: Web, tmp_path: Path) -> None:
    web.files["/w.pth"] = DATA
    found = weights_file(f"{web.url}/w.pth", tmp_path, SHA256)
    assert found.read_bytes() == DATA
    web.requests.clear()
    assert weights_file(f"{web.url}/w.pth", tmp_path, SHA256) == found
    assert web.requests == []


def test_several_processes_may_download_one_file_at_once(web: Web, tmp_path: Path) -> None:
    web.files["/w.pth"] = DATA * 400  # 4 MB
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(weights_file, [(f"{web.url}/w.pth", tmp_path)] * 4, chunksize=1)
    assert len(set(found)) == 1
    assert found[0].read_bytes() == DATA * 400
    assert cached(tmp_path) == found[:1]


def test_a_download_cut_short_is_tried_again_and_leaves_nothing(web: Web, tmp_path: Path) -> None:
    web.files["/w.pth"] = DATA
    web.fail(0, "/w.pth", times=3)  # of HEAD, whose body is none, and of two bodies
    assert weights_file(f"{web.url}/w.pth", tmp_path).read_bytes() == DATA
    assert len(cached(tmp_path)) == 1
    web.files["/other.pth"] = DATA
    web.fail(0, "/other.pth", times=99)
    assert refused(f"{web.url}/other.pth", tmp_path).startswith(f"cannot download {web.url}/other.pth: ")
    assert len(cached(tmp_path)) == 1


def test_another_file_than_the_stated_one_is_not_kept(web: Web, tmp_path: Path) -> None:
    web.files["/w.pth"] = DATA
    assert refused(f"{web.url}/w.pth", tmp_path, "0" * 64) == (
        f"{web.url}/w.pth: what came has the sha256 {SHA256}, the set of models states {'0' * 64}"
    )
    assert cached(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the server answers 401 Unauthorized: its name is wrong, or it is private; check the name, then log in"),
        (403, "the server answers 403 Forbidden: it is not for everyone; accept its terms on its page, then log in"),
        (404, "the server answers 404 Not Found: there is no such file"),
        (429, "the server answers 429 Too Many Requests: too many requests; wait some minutes; run again to go on"),
        (503, "the server answers 503 Service Unavailable; run again to go on"),
    ],
)
@pytest.mark.parametrize("hub", [False, True])
def test_what_a_server_answers_is_said(web: Web, tmp_path: Path, status: int, words: str, hub: bool) -> None:
    web.fail(status, times=99)
    location = "hf://owner/name/w.pt" if hub else f"{web.url}/w.pth"
    said = refused(location, tmp_path)
    assert said.startswith(f"cannot download {location}: {words}")
    assert "\n" not in said
    assert web.asked("GET|HEAD") >= (4 if status in (429, 503) else 1)


def test_a_name_that_cannot_be_resolved_and_a_proxy_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: Web
) -> None:
    assert "the server's name cannot be resolved; is there a network?" in refused("https://no.invalid/w.pth", tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    files.fsspec.get_filesystem_class("http").clear_instance_cache()
    assert "the proxy of HTTP_PROXY or HTTPS_PROXY does not serve it" in refused("http://far.invalid/w.pth", tmp_path)
    files.fsspec.get_filesystem_class("http").clear_instance_cache()


def test_a_full_disk_is_said_and_leaves_nothing(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files["/w.pth"] = DATA

    def full(self: Path, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert refused(f"{web.url}/w.pth", tmp_path).startswith(
        f"cannot download {web.url}/w.pth: the disk of the cache is full; download it elsewhere"
    )
    assert cached(tmp_path) == []


def test_a_hub_repository_is_fetched_once_and_known_by_its_commit(web: Web, tmp_path: Path) -> None:
    web.repositories["models/owner/name"] = {"config.json": b"{}", "model.safetensors": DATA, "unwanted.bin": DATA}
    path, commit = repository("owner/name", tmp_path, None, ("config.json", "model.safetensors"))
    assert commit == COMMIT
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    web.requests.clear()
    assert repository("owner/name", tmp_path, COMMIT, ("config.json", "model.safetensors")) == (path, commit)
    assert web.requests == []
    assert repository(".", tmp_path, None) == (tmp_path, None)


def test_a_damaged_file_of_the_hubs_cache_is_named(web: Web, tmp_path: Path) -> None:
    web.repositories["models/owner/name"] = {"w.pt": DATA}
    path = weights_file("hf://owner/name/w.pt", tmp_path)
    assert checked_sha256(path, None) == SHA256
    path.resolve().write_bytes(DATA[:-1])
    with pytest.raises(ModelError, match=r"is damaged: its sha256 is \w{64}; delete it and run again"):
        checked_sha256(path, None)


def test_the_published_models_are_fetched_before_the_first_is_loaded(web: Web, tmp_path: Path) -> None:
    """Everything is asked for and checked, what was a branch is a commit, and a second time nothing is asked."""
    models = tmp_path / "mine.toml"
    models.write_text(
        """
        [towers.clip]
        family = "open_clip"
        model = "ViT-L-14-quickgelu"
        pretrained = "openai"
        [towers.pickscore]
        family = "transformers_clip"
        model = "owner/pickscore"
        processor = "owner/processor"
        [towers.hpsv2]
        family = "hpsv2"
        model = "ViT-H-14"
        checkpoint = "hf://owner/hpsv2/hps.pt"
        [scorers.clip]
        tower = "clip"
        head = "cosine"
        [scorers.pickscore]
        tower = "pickscore"
        head = "scaled_cosine"
        [scorers.hpsv2]
        tower = "hpsv2"
        head = "cosine"
        [scorers.image_reward]
        head = "image_reward"
        checkpoint = "hf://owner/reward/reward.pt"
        med_config = "hf://owner/reward/med.json"
        tokenizer = "owner/bert"
        [scorers.aesthetic]
        tower = "clip"
        head = "aesthetic"
        """
        f'weights = "{web.url}/head.pth"\nsha256 = "{SHA256}"'
    )
    web.files["/head.pth"] = DATA
    web.repositories |= {
        "models/timm/vit_large_patch14_clip_224.openai": {"open_clip_pytorch_model.bin": DATA},
        "models/owner/pickscore": {"config.json": b"{}", "model.safetensors": DATA},
        "models/owner/processor": {"preprocessor_config.json": b"{}", "merges.txt": b"", "model.safetensors": DATA},
        "models/owner/hpsv2": {"hps.pt": DATA},
        "models/owner/reward": {"reward.pt": DATA, "med.json": b"{}"},
        "models/owner/bert": {"vocab.txt": b"", "model.safetensors": DATA},
    }
    model_set = load_model_set(str(models))
    found = fetched(model_set, list(model_set.scorers.values()))
    towers, scorers = found.towers, found.scorers
    assert towers["clip"].options["weights"] == (
        f"hf://timm/vit_large_patch14_clip_224.openai@{COMMIT}/open_clip_pytorch_model.bin"
    )
    assert towers["pickscore"].options["revision"] == towers["pickscore"].options["processor_revision"] == COMMIT
    assert towers["hpsv2"].options["checkpoint"] == f"hf://owner/hpsv2@{COMMIT}/hps.pt"
    assert scorers["image_reward"].options["med_config"] == f"hf://owner/reward@{COMMIT}/med.json"
    assert scorers["image_reward"].options["tokenizer_revision"] == COMMIT
    assert not web.asked("processor.*model.safetensors|bert.*model.safetensors")
    web.requests.clear()
    assert fetched(found, list(scorers.values())) == found
    assert web.requests == []


def test_weights_that_are_not_the_stated_ones_stop_before_anything_is_loaded(web: Web, tmp_path: Path) -> None:
    models = tmp_path / "mine.toml"
    models.write_text(
        '[towers.t]\nfamily = "hpsv2"\nmodel = "ViT-H-14"\ncheckpoint = "hf://owner/hpsv2/hps.pt"\n'
        f'sha256 = "{"0" * 64}"\n[scorers.s]\ntower = "t"\nhead = "cosine"\n'
    )
    web.repositories["models/owner/hpsv2"] = {"hps.pt": DATA}
    model_set = load_model_set(str(models))
    with pytest.raises(ModelError, match="sha256 is"):
        fetched(model_set, list(model_set.scorers.values()))
    del web.repositories["models/owner/hpsv2"]
    with pytest.raises(ManifestError):
        weights_file("hf://owner/hpsv2/none.pt", tmp_path)


def test_weights_are_found_and_checked(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    found = weights_file("w.pth", tmp_path)
    assert found == (tmp_path / "w.pth").resolve()
    assert checked_sha256(found, None) == checked_sha256(found, digest) == digest
    with pytest.raises(ModelError) as caught:
        checked_sha256(found, "0" * 64)
    assert str(caught.value) == (
        f"{(tmp_path / 'w.pth').resolve()}: sha256 is {digest}, the set of models states {'0' * 64}"
    )


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        weights_file("nowhere.pth", tmp_path)
    assert str(caught.value) == (
        f"no weights at {(tmp_path / 'nowhere.pth').resolve()}; correct the path in the set of models"
    )


def test_offline_it_is_said_that_the_hub_may_not_be_asked(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        weights_file("hf://nobody/nothing/weights.pt", tmp_path)
    assert str(caught.value) == (
        "cannot download hf://nobody/nothing/weights.pt: it is not in the cache, and HF_HUB_OFFLINE forbids to ask the "
        "hub; download it elsewhere and give its local path in a TOML file to --models"
    )


def test_a_long_download_is_shown_in_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What the hub's client counts: one bar of bytes, by the name of what is fetched; nothing of the others."""
    enable_progress_bars()  # another test may have had them off
    bar = _bar("owner/name")
    with bar(unit="B", unit_scale=True, total=100, delay=9, name="huggingface_hub.http_get") as shown:
        shown.delay = 0  # as after the first second
        shown.set_description("Reconstructing")
        shown.update(60)
        shown.refresh()
    with bar(total=2, desc="Fetching 2 files") as files_done, bar(unit="B", total=9, name="x.transfer") as transfer:
        assert files_done.disable
        assert transfer.disable
    said = capsys.readouterr().err
    assert "owner/name:  60%" in said
    assert "Reconstructing" not in said
    assert "\r" not in said
