"""Which axes are seq_len and batch, told from sizes seen at several (seq_len, batch) pairs."""

from collections.abc import Sequence

from statecell.spec import BATCH, SEQ_LEN, Shape

SIZES = ((5, 3), (7, 3), (5, 4))
"""The (seq_len, batch) pairs at which a model is run to find its axes."""


class NoSymbolError(ValueError):
    """An axis is neither seq_len nor batch nor constant."""


def symbolic(shapes: Sequence[tuple[int, ...]]) -> Shape:
    """The shape in symbols of a tensor seen at SIZES. Raises NoSymbolError, which says what was seen."""
    if len({len(shape) for shape in shapes}) > 1:
        raise NoSymbolError("has another number of axes at another seq_len or batch")
    symbols: list[int | str] = []
    for seen in zip(*shapes, strict=True):
        if len(set(seen)) == 1:
            symbols.append(seen[0])
        elif seen == tuple(seq_len for seq_len, _ in SIZES):
            symbols.append(SEQ_LEN)
        elif seen == tuple(batch for _, batch in SIZES):
            symbols.append(BATCH)
        else:
            raise NoSymbolError(
                f"has an axis of {', '.join(map(str, seen))} at (seq_len, batch) = {', '.join(map(str, SIZES))}: "
                "neither seq_len nor batch nor constant"
            )
    return tuple(symbols)
