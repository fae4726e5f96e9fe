"""charlm writes: one character a step, the state on the server, the dice in the client."""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from rich.console import Console
from statecell_client import Client

from statecell_examples.charlm import ALPHABET, encode

PROMPT = "It is a truth universally acknowledged, that "


def characters(client: Client, count: int, temperature: float = 0.5, seed: int = 1813) -> Iterator[str]:
    """So many characters to follow PROMPT. A lower temperature keeps closer to what the model finds likely."""
    rng = np.random.default_rng(seed)
    *before, index = encode(PROMPT)
    with client.session("charlm") as session:
        session.run(np.array([before]))  # [batch, seq_len]: the state now holds the prompt but for its last character
        for _ in range(count):
            logits = session.step(index).astype(np.float64) / temperature  # [len(ALPHABET)]
            weights = np.exp(logits - logits.max())
            index = rng.choice(len(ALPHABET), p=weights / weights.sum())
            yield ALPHABET[index]


def write(text: Iterable[str], console: Console) -> None:
    """Print PROMPT and the characters of the text as they come, a word at a time, wrapped between words."""
    column = 0
    for word in _words(chain(PROMPT, text)):
        if column + len(word.rstrip()) > min(console.width, 100):
            console.print()
            column = 0
        console.print(word, end="", highlight=False, markup=False, soft_wrap=True)
        column = 0 if word.endswith("\n") else column + len(word)
    console.print("…" if column else "")


def _words(text: Iterable[str]) -> Iterator[str]:
    """The words, each with the space or line break behind it."""
    word = ""
    for character in text:
        word += character
        if character.isspace():
            yield word
            word = ""
    if word:
        yield word
