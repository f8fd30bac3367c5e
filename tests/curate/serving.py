"""A page's server in a thread of the tests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from curate.pages.server import Server


@contextmanager
def in_a_thread(server: Server) -> Iterator[int]:
    """The port of a server that answers until the block ends."""
    thread = threading.Thread(target=server.serve_until_ctrl_c)
    thread.start()
    try:
        yield server.port
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
