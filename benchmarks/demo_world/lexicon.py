"""A CLIP tokenizer of few words: all bytes, so that any text can be read, plus the lexicon's words."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any, cast

from transformers import CLIPTokenizer

from benchmarks.demo_world.scenes import lexicon

CONTEXT_LENGTH = 24  # tokens; the longest caption takes 17
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(pad_token: str) -> CLIPTokenizer:
    """A `CLIPTokenizer` over the lexicon.

    pad_token: END for Stable Diffusion's first encoder; "!" (id 0, as OpenAI's padding) where the text
    tower pools at the largest id, which must then occur once.
    """
    merges = learn_merges(lexicon())
    symbols = list(_byte_symbols())
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols), *("".join(m) for m in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=cast(Any, merges),  # pairs, whatever its annotation says
        pad_token=pad_token,
        model_max_length=CONTEXT_LENGTH,
        add_prefix_space=False,
    )


def save_tokenizer(folder: Path, pad_token: str) -> CLIPTokenizer:
    """Write the tokenizer into `folder`, which may hold a model as well."""
    tokenizer = make_tokenizer(pad_token)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent first, until every word is one token."""
    pieces = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
    merges = []
    while any(len(piece) > 1 for piece in pieces):
        counts = Counter(pair for piece in pieces for pair in itertools.pairwise(piece))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = [_merge(piece, best) for piece in pieces]
    return merges


def _merge(piece: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in piece:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in its order ("!" first)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(hidden))]
