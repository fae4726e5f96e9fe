"""What callers hand in (NumPy, torch, Python numbers) as arrays of the model's dtype, and the answers in the caller's kind."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from statecell_client.errors import DtypeMismatch, InvalidRequest

Array = np.ndarray[Any, Any]
ArrayLike = Any
"""A NumPy array, a torch tensor, a number, or lists of numbers."""


@dataclass(frozen=True)
class Kind:
    """In what kind answers go back: NumPy, or torch tensors on `device`."""

    device: Any = None

    @classmethod
    def of(cls, values: Iterable[ArrayLike]) -> "Kind":
        """torch where any of the values is a torch tensor. torch is never imported for it."""
        return next((cls(value.device) for value in values if _is_torch(value)), NUMPY)

    def give(self, array: Array) -> Any:
        """`array` as the caller's own: writable, and a torch tensor where the caller gave one."""
        own = np.array(array)
        return own if self.device is None else sys.modules["torch"].from_numpy(own).to(self.device)


NUMPY = Kind()


def to_array(name: str, value: ArrayLike, dtype: str) -> Array:
    """`value` as an array of `dtype`.

    Floats convert to floats and integers to integers that can hold them or to floats; anything else raises DtypeMismatch.
    A torch tensor is detached: no gradient flows through a server.
    """
    if isinstance(value, Mapping):
        raise InvalidRequest(f"{name!r} is a dict; give inputs by keywords, as in step(**inputs)", metadata={"field": name})
    try:
        given = value.detach().cpu().numpy() if _is_torch(value) else np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of unequal lengths, or torch's dtypes that NumPy lacks
        raise InvalidRequest(f"{name!r} is no array of numbers that NumPy knows: {error}", metadata={"field": name}) from error
    want = np.dtype(dtype)
    if given.dtype == want:
        return given
    if _holds(given, want):
        with np.errstate(over="ignore"):  # becomes an infinity, which the server refuses by its name
            return given.astype(want)
    raise DtypeMismatch(
        f"{name!r} has dtype {given.dtype}, expected {want}, to which it does not convert safely{_advice(given, value)}",
        metadata={"field": name, "got": str(given.dtype), "expected": str(want)},
    )


def _advice(given: Array, value: object) -> str:
    if given.dtype.kind in "US":
        return "; give numbers, as float(text) makes them"
    if given.dtype.kind == "O":
        return f"; give numbers, lists of them or arrays, not {type(value).__name__} of other objects"
    return ""


def _holds(given: Array, want: np.dtype[Any]) -> bool:
    if given.dtype.kind in "iu" and want.kind in "iu" and given.size:
        limits = np.iinfo(want)
        return int(given.min()) >= limits.min and int(given.max()) <= limits.max
    return np.can_cast(given.dtype, want, "same_kind")


def _is_torch(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
