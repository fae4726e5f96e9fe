"""Pairing: which result of forward carries on which of the states that it takes.

By what is passed on: the very tensor goes into a recurrent module, and what that gives back comes out. By structure: a tuple of
states goes in and one of the same length comes out. By names: of arguments, keys, fields, and in forward's own return. Never by
values, nor by the order of results.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence

from torch import nn

from statecell_export.errors import ExampleError, ModuleRefusedError
from statecell_export.reading.observe import Observation

_MOVES = {"transpose", "permute", "contiguous", "squeeze", "unsqueeze", "view", "reshape", "movedim", "clone", "detach"}
"""Methods whose result is called what they were called on: h.transpose(0, 1) is h."""
_DECORATION = re.compile(r"(?:^|_)(?:new|next|prev|previous|last|old|out|cur|current|in|t|n|\d+)(?=_|$)|(?<=[a-z])\d+$")


def pair(module: nn.Module, fitting: Mapping[str, Sequence[int]], seen: Observation) -> dict[str, int]:
    """The place of each state's next value. `fitting`: the places of results that have a state's shape, by argument.

    Raises ModuleRefusedError where more than one reading is left.
    """
    found: dict[str, int] = {}
    for evidence in (_passed_on(fitting, seen), _in_tuples(fitting, seen), _named(fitting, _names(module, seen))):
        for name, place in evidence.items():
            if name not in found and place in fitting[name] and place not in found.values():
                found[name] = place
    for name, places in fitting.items():  # what is left has one reading, or none
        left = [place for place in places if place not in found.values()]
        rivals = [other for other in fitting if other not in found and other != name and set(fitting[other]) & set(left)]
        if name not in found and len(left) == 1 and not rivals:
            found[name] = left[0]
    if open_ := [name for name in fitting if name not in found]:
        raise ModuleRefusedError(_question(module, open_, fitting, seen))
    return found


def by_name(module: nn.Module, fitting: Mapping[str, Sequence[int]], seen: Observation) -> set[str]:
    """The arguments that results are named after, one by one or as a tuple: no chance of shapes."""
    return {*_in_tuples(fitting, seen), *_named(fitting, _names(module, seen))}


def told(states: Sequence[str], arguments: Sequence[str], seen: Observation) -> dict[str, int]:
    """Lines such as "h:1" or "h:h_next" as places. Raises ExampleError."""
    found = {}
    for line in states:
        name, colon, result = line.rpartition(":")
        place = int(result) if result.isdigit() else seen.keys.index(result) if result in seen.keys else -1
        if not colon or name not in arguments or not 0 <= place < len(seen.results):
            results = ", ".join(f"{n}{f' ({key})' if key else ''}" for n, key in enumerate(seen.keys))
            raise ExampleError(
                f"states={line!r} cannot be read; write ARGUMENT:RESULT, of the arguments {', '.join(arguments)} "
                f"and the results {results}"
            )
        found[name] = place
    return found


def _passed_on(fitting: Mapping[str, Sequence[int]], seen: Observation) -> dict[str, int]:
    """Arguments that go into a recurrent module as they are, and whose next values come out as that gives them."""
    found = {}
    for root, latest in zip(seen.roots, seen.latest, strict=True):
        for before, after in zip(root.states or (), latest, strict=False):
            name = next((n for n in fitting if seen.tensors[n] is before), None)
            place = next((i for i, result in enumerate(seen.results) if result is after), None)
            if name is not None and place is not None:
                found[name] = place
    return found


def _in_tuples(fitting: Mapping[str, Sequence[int]], seen: Observation) -> dict[str, int]:
    """States that are given in one argument, and come back in one result, as many as they are."""
    found: dict[str, int] = {}
    groups: dict[str, list[str]] = {}
    for name in fitting:
        stem, _, number = name.rpartition("_")
        if number.isdigit():
            groups.setdefault(stem, []).append(name)
    nests: dict[object, list[int]] = {}
    for place, path in enumerate(seen.paths):
        if len(path) > 1:
            nests.setdefault(path[:-1], []).append(place)
    for names in groups.values():
        same = [places for places in nests.values() if len(places) == len(names)]
        if len(names) > 1 and len(same) == 1:
            found |= dict(zip(names, same[0], strict=True))
    return found


def _named(fitting: Mapping[str, Sequence[int]], names: Sequence[str]) -> dict[str, int]:
    found = {}
    for name in fitting:
        places = [place for place, other in enumerate(names) if other and _bare(other) == _bare(name)]
        rivals = [other for other in fitting if other != name and _bare(other) == _bare(name)]
        if len(places) == 1 and not rivals:
            found[name] = places[0]
    return found


def _bare(name: str) -> str:
    """h of h_0, new_h, h_next, hx and hy."""
    name = name.rpartition(".")[2].lower()
    if re.fullmatch(r"[hc][xy]", name):
        return name[0]
    return _DECORATION.sub("", name).strip("_") or name


def _names(module: nn.Module, seen: Observation) -> list[str]:
    """Of the results: their keys or fields, else what forward calls them where it returns them."""
    if any(seen.keys):
        return list(seen.keys)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError):
        return []
    returns = [_flat(node.value) for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    agreed = returns and all(names == returns[0] for names in returns) and len(returns[0]) == len(seen.results)
    return returns[0] if agreed else []


def _flat(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Tuple | ast.List):
        return [name for element in node.elts for name in _flat(element)]
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES:
        node = node.func.value
    return [node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""]


def _question(module: nn.Module, open_: Sequence[str], fitting: Mapping[str, Sequence[int]], seen: Observation) -> str:
    places = sorted({place for name in open_ for place in fitting[name]})
    guess = [f"{name}:{place}" for name, place in zip(open_, places[-len(open_) :], strict=False)]
    results = ", ".join(f"{place}{f' ({seen.keys[place]})' if seen.keys[place] else ''}" for place in places)
    return (
        f"{type(module).__name__}.forward takes {' and '.join(open_)} and gives {len(places)} results of that shape, "
        f"{results}: nothing tells which carries on which; say so, as in states={guess!r} (ARGUMENT:RESULT)"
    )
