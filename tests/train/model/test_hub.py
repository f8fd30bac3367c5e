"""What a hub refuses, by a server that answers as it does."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from train.errors import ModelError
from train.model.families import loading


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 401)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        download = partial(hf_hub_download, endpoint=address, cache_dir=tmp_path)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # no test asks the real one
        monkeypatch.setattr(loading, "hf_hub_download", download)
        yield
        server.shutdown()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "some/gated-model",
            "some/gated-model is gated: accept its terms at https://huggingface.co/some/gated-model with your account,"
            " then log in by `hf auth login`, or set HF_TOKEN.",
        ),
        (
            "some/private-model",
            "some/private-model is neither a folder nor a model that the hub gives (it answers 401); for a private one"
            " log in by `hf auth login`, else check the name and the network.",
        ),
    ],
)
def test_a_model_that_the_hub_refuses_says_how_to_get_it(source: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        loading.pipeline_index(source)
    assert str(caught.value) == said
