"""What every test may use. Nothing here reaches the network: hub look-ups fail at once."""

import os
from pathlib import Path

import pytest

from tests.demo import make_demo_run

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled demo, run once for all tests; copy it before changing it."""
    return make_demo_run(tmp_path_factory.mktemp("demo") / "run")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/test_docs_sql.py --update` writes the results in docs/sql.md anew."""
    parser.addoption("--update", action="store_true", help="write the results in docs/sql.md anew")
