"""A tar laid out before its images are read: headers and small members as bytes, and a place for each image.

Byte for byte what webdataset's `TarWriter(..., user="pairsieve", group="pairsieve", mtime=0.0)` writes; since
every offset is known beforehand, images can be written in any order, by any number of workers.
"""

import hashlib
import tarfile
from functools import cache

BLOCK_BYTES = tarfile.BLOCKSIZE
OWNER = "pairsieve"
MODE = 0o444
# Fields of a ustar header: name, size, checksum. https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)


class TarLayout:
    """Members in order. `pieces`: (offset, bytes) of everything but the images, which leave holes between them."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.size_bytes = 0
        self._start, self._pending = 0, bytearray()
        self._digest = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """A member whose bytes are here already."""
        self._append(member_header(name, len(data)) + data + padding(len(data)))

    def add_image(self, name: str, size_bytes: int) -> int:
        """A member whose bytes come later; returns the offset where they belong."""
        self._append(member_header(name, size_bytes))
        self._flush()
        offset = self.size_bytes
        self.size_bytes = self._start = offset + size_bytes
        self._append(padding(size_bytes))
        return offset

    def close(self) -> str:
        """The end of the tar; returns the sha256 of all pieces, which with the images' own decides every byte."""
        self._append(bytes(2 * BLOCK_BYTES))
        self._append(bytes(-self.size_bytes % tarfile.RECORDSIZE))
        self._flush()
        return self._digest.hexdigest()

    def size_after(self, sizes_bytes: list[int]) -> int:
        """Bytes of the closed tar if members of these sizes were added."""
        members = sum(len(_template()) + size + len(padding(size)) for size in sizes_bytes)
        return -(-(self.size_bytes + members + 2 * BLOCK_BYTES) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE

    def _append(self, data: bytes) -> None:
        self._pending += data
        self.size_bytes += len(data)

    def _flush(self) -> None:
        piece = bytes(self._pending)
        self._digest.update(piece)
        self.pieces.append((self._start, piece))
        self._pending.clear()


def member_header(name: str, size_bytes: int) -> bytes:
    """The blocks before a member's bytes. name: ASCII, at most 100 characters; size_bytes below 8 GiB."""
    header = bytearray(_template())
    block = memoryview(header)[-BLOCK_BYTES:]
    block[_NAME] = name.encode("ascii").ljust(100, b"\0")
    block[_SIZE] = b"%011o\0" % size_bytes
    block[_CHECKSUM] = b" " * 8  # the sum is taken with blanks in its own place
    block[_CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(header)


def padding(size_bytes: int) -> bytes:
    """Zeros up to the next whole block."""
    return bytes(-size_bytes % BLOCK_BYTES)


@cache
def _template() -> bytes:
    info = tarfile.TarInfo("")
    info.mtime, info.mode = 0.0, MODE  # a float: the extended header that TarWriter's callers get
    info.uname = info.gname = OWNER
    return info.tobuf(tarfile.PAX_FORMAT)
