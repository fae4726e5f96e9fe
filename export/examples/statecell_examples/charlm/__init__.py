"""A character language model: Embedding, a two-layer LSTM and Linear, trained on Pride and Prejudice."""

from statecell_examples.charlm.corpus import ALPHABET, decode, encode
from statecell_examples.charlm.model import CharLM, load

__all__ = ["ALPHABET", "CharLM", "decode", "encode", "load"]
