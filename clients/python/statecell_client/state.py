"""A session's state: a tuple, as PyTorch's modules return it, whose arrays can also be had by name."""

from collections.abc import ItemsView, Iterable, KeysView, Mapping
from typing import Any, Self, SupportsIndex, overload

from statecell_client.arrays import Array


class State(tuple[Array, ...]):
    """`h_0, c_0 = session.state`, in the spec's order; `session.state["c_0"]` by the name of the state input.

    NumPy arrays of the spec's shapes, copies; a GRU has a tuple of one: `(h_0,) = session.state`. Goes wherever a state does:
    `client.session("lstm", state=state)`, `client.lstm("lstm")(x, state)`, `client.infer("lstm", x=x, **state)`.
    """

    _by_name: dict[str, Array]

    def __new__(cls, states: Mapping[str, Array] | Iterable[tuple[str, Array]]) -> Self:
        by_name = dict(states)
        self = super().__new__(cls, by_name.values())
        self._by_name = by_name
        return self

    @overload
    def __getitem__(self, key: SupportsIndex | str, /) -> Array: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[Array, ...]: ...
    def __getitem__(self, key: SupportsIndex | str | slice, /) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self._by_name:
            raise KeyError(f"there is no state {key!r}, expected {', '.join(self._by_name)}")
        return self._by_name[key]

    def keys(self) -> KeysView[str]:
        """The names of the state inputs, in the spec's order."""
        return self._by_name.keys()

    def items(self) -> ItemsView[str, Array]:
        """Each name with its array."""
        return self._by_name.items()

    def __contains__(self, name: object) -> bool:
        """Whether there is a state of that name."""
        return name in self._by_name

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}={array!r}' for name, array in self.items())})"

    def __getnewargs__(self) -> tuple[dict[str, Array]]:  # how it is copied and pickled
        return (self._by_name,)
