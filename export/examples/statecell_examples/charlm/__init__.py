"""A character language model: Embedding, a two-layer LSTM and Linear, trained on Pride and Prejudice."""

from .corpus import ALPHABET, decode, encode
from .model import CharLM, load

__all__ = ["ALPHABET", "CharLM", "decode", "encode", "load"]
