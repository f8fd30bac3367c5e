"""Which split a sample belongs to, how samples are ordered within it, and how many a shard holds."""

import hashlib
import re
from dataclasses import dataclass
from unicodedata import normalize

from curate.errors import UsageError, nearest

ORDERS = ("rank", "shuffle")
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmg])(i?))?b?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # a folder of ours, and a split's name for Hugging Face `datasets`


@dataclass(frozen=True)
class SplitShare:
    """A split and its share of the prompts, in (0, 1]."""

    name: str
    fraction: float


@dataclass(frozen=True)
class ShardSize:
    """When a shard is full: at so many samples, or before it would exceed so many bytes (one sample always fits)."""

    pairs: int = 1000
    size_bytes: int | None = None


def parse_bytes(text: str) -> int:
    """`500MB`, `1.5GiB` or a plain number as bytes. Raises UsageError."""
    found = _BYTES.fullmatch(text.strip())
    number, letter, binary = found.groups(default="") if found else ("0", "", "")
    size = int(float(number) * (1024 if binary else 1000) ** " kmg".index(letter.lower() or " "))
    if size < 1:
        raise UsageError(f"--shard-bytes {text}: write a number with KB, MB, GB, KiB, MiB or GiB, such as 500MB")
    return size


def check_order(order: str) -> str:
    """Raises UsageError for an order that there is not."""
    if order not in ORDERS:
        raise UsageError(f"--order {order}: unknown{nearest(order, ORDERS)}")
    return order


def parse_split(text: str | None) -> tuple[SplitShare, ...]:
    """`train=0.95,validation=0.05` as shares that sum to 1; () for None. Raises UsageError."""
    if text is None:
        return ()
    shares = tuple(_share(term.strip(), text) for term in text.split(","))
    if len({share.name.casefold() for share in shares}) < len(shares):
        raise UsageError(f"--split {text}: a split is named twice")
    total = sum(share.fraction for share in shares)
    if abs(total - 1) > 1e-6:
        raise UsageError(f"--split {text}: the shares sum to {total:g}; they must sum to 1")
    return shares


def split_of(prompt: str, shares: tuple[SplitShare, ...]) -> str:
    """The split of a prompt: a hash of its text alone, so that it is the same in every ranking and every export.

    Prompts that differ by upper and lower case, by white space or by how their letters are composed in Unicode (NFC,
    NFD) only go together. "" when there are no splits.
    """
    if not shares:
        return ""
    caseless = normalize("NFC", normalize("NFD", prompt).casefold())
    text = "split\x1f" + " ".join(caseless.split())
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    position, upto = int.from_bytes(digest) / 2**64, 0.0
    for share in shares:
        upto += share.fraction
        if position < upto:
            return share.name
    return shares[-1].name


def in_split(split: str, file: str) -> str:
    """A file's name below the output folder: in the folder of its split, "" where there are none."""
    return f"{split}/{file}" if split else file


def _share(term: str, text: str) -> SplitShare:
    name, _, fraction = term.partition("=")
    if not _NAME.fullmatch(name):
        raise UsageError(f"--split {text}: '{name}' is no name of a split; take letters, digits and _")
    try:
        value = float(fraction)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError(f"--split {text}: write NAME=SHARE, such as train=0.95,validation=0.05")
    return SplitShare(name, value)
