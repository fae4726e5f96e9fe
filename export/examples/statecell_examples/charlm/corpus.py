"""The text the language model learns from, as indices into a fixed alphabet."""

import string
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ALPHABET = "\n !\"'(),-.:;?" + string.digits + string.ascii_letters
"""The characters a CharLM knows. A character's index is its position here, and its class in the logits."""

TEXT = Path(__file__).with_name("pride_and_prejudice.txt")

_INDEX = {character: index for index, character in enumerate(ALPHABET)}


def encode(text: str) -> NDArray[np.int64]:
    """`encode("Mr. Darcy")`: the indices of the characters, int64 [len(text)].

    Raises ValueError where a character is not in ALPHABET.
    """
    unknown = sorted(set(text) - _INDEX.keys())
    if unknown:
        raise ValueError(f"text has the characters {unknown}, expected only those of {ALPHABET!r}")
    return np.array([_INDEX[character] for character in text], dtype=np.int64)


def decode(indices: NDArray[np.int64]) -> str:
    """The characters of the indices, [n]."""
    return "".join(ALPHABET[index] for index in indices)


def read() -> str:
    """The novel with one paragraph a line.

    The file's line breaks are those of a printed page and would only teach the model to count columns. The
    underscores around stressed words and the rules between letters are typography, and go too.
    """
    paragraphs = TEXT.read_text(encoding="ascii").replace("_", "").replace("*", "").split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()) + "\n"


def split(held_out: float = 0.05) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The novel's indices to train on and the part that follows, held out."""
    indices = encode(read())
    cut = round(len(indices) * (1 - held_out))
    return indices[:cut], indices[cut:]
