"""Pairing: which result of forward carries on which of the states that it takes.

By what is passed on: a state goes into a recurrent module, moved or masked at most, and what that gives back comes out. By
structure: a nest of states goes in and one of the same structure comes out. By names: of arguments, keys, fields, and in
forward's own return. By what is kept: what a state holds is in a result, among what is new. Never by values, nor by the order
of results.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence

from torch import nn

from statecell_export.errors import ExampleError, ModuleRefusedError
from statecell_export.reading.observe import Observation, passed
from statecell_export.reading.results import Path, dotted
from statecell_export.reading.wrapper import Wrapper

_MOVES = {"transpose", "permute", "contiguous", "squeeze", "unsqueeze", "view", "reshape", "movedim", "clone", "detach"}
"""Methods whose result is called what they were called on: h.transpose(0, 1) is h."""
_DECORATION = re.compile(r"(?:^|_)(?:new|next|prev|previous|last|old|out|cur|current|in|t|n|\d+)(?=_|$)|(?<=[a-z])\d+$")


def pair(
    module: nn.Module, fitting: Mapping[str, Sequence[int]], seen: Observation, paths: Mapping[str, Path]
) -> dict[str, tuple[int, str]]:
    """The place of each state's next value, and what tells it. `fitting`: the places of results that have a state's shape;
    `paths`: where each argument is.

    Raises ModuleRefusedError where more than one reading is left.
    """
    found: dict[str, tuple[int, str]] = {}

    def free(places: Sequence[int]) -> list[int]:
        return [place for place in places if place not in {other for other, _ in found.values()}]

    evidence = {
        "passed through a recurrent module": _passed_on(fitting, seen),
        "by their tuples": _in_nests(fitting, seen, paths),
        "by their names": _named(fitting, _names(module, seen), seen),
    }
    for how, pairs in evidence.items():
        for name, place in pairs.items():
            if name not in found and place in free(fitting[name]):
                found[name] = place, how
    for name, place in _kept({name: free(places) for name, places in fitting.items() if name not in found}, seen).items():
        found[name] = place, "what it holds is in there, among what is new"
    told_apart, inputs = bool(found), set[str]()
    for name, places in fitting.items():  # what is left has one reading, or none
        left = _one(free(places), seen)
        rivals = [other for other in fitting if other not in found and other != name and set(fitting[other]) & set(left)]
        if name not in found and len(left) == 1 and not rivals and not told_apart:
            found[name] = left[0], "the only one of its shape"
        elif name not in found and not left:
            inputs.add(name)  # what has its shape carries on another state
    if open_ := [name for name in fitting if name not in found and name not in inputs]:
        raise ModuleRefusedError(_question(module, open_, fitting, seen))
    return found


def by_name(module: nn.Module, fitting: Mapping[str, Sequence[int]], seen: Observation, paths: Mapping[str, Path]) -> set[str]:
    """The arguments that results are named after, one by one or as a nest: no chance of shapes."""
    return {*_in_nests(fitting, seen, paths), *_named(fitting, _names(module, seen), seen)}


def told(states: Sequence[str], arguments: Sequence[str], seen: Observation) -> dict[str, int | None]:
    """Lines such as "h:1", "h:h_next" or "cached_*=new_cached_*" as places; None for "gain:", an input. Raises ExampleError."""
    found: dict[str, int | None] = {}
    names = [dotted(path) for path in seen.paths]
    for line in states:
        name, separator, result = re.fullmatch(r"(.*?)([:=]?)([^:=]*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
        star = re.compile(re.escape(name).replace(r"\*", "(.*)"))
        taken = {argument: match for argument in arguments if (match := star.fullmatch(argument)) and separator}
        for argument, match in taken.items():
            if not result:
                found[argument] = None
                continue
            wanted = result.replace("*", match[1]) if match.groups() else result
            ends = [place for place, other in enumerate(names) if other and wanted == other[-len(wanted) :]]
            ends = [place for place in ends if names[place][: -len(wanted)][-1:] in ("", ".")]
            place = names.index(wanted) if wanted in names else ends[0] if len(ends) == 1 else -1
            if wanted.isdigit():  # the number of a result, as they are counted where it is asked, and no part of a name
                place = int(wanted) if int(wanted) < len(names) else -1
            if place in found.values() and found.get(argument) != place and place >= 0:
                other = next(name for name, taken_by in found.items() if taken_by == place)
                raise ExampleError(f"states={line!r} and the one of {other!r} name the same result, {place} ({names[place]})")
            if place >= 0:
                found[argument] = place
        if not taken or not set(taken) <= set(found):
            results = ", ".join(f"{n}{f' ({name})' if name != str(n) else ''}" for n, name in enumerate(names))
            raise ExampleError(
                f"states={line!r} cannot be read; write ARGUMENT:RESULT, of the arguments {', '.join(arguments)} "
                f"and the results {results}; * stands for the same in both, and ARGUMENT: for an input that is no state"
            )
    return found


def _passed_on(fitting: Mapping[str, Sequence[int]], seen: Observation) -> dict[str, int]:
    """Arguments that go into a recurrent module as its state, moved at most, and whose next values come out as that gives them.

    Where several results hold what it gives back, as an output of a cell does, the very tensor is the one.
    """
    found = {}
    for number, (root, latest) in enumerate(zip(seen.roots, seen.latest, strict=True)):
        for state, (given, after) in enumerate(zip(root.holds, latest, strict=False)):
            names = [name for name in fitting if name in given]
            held = [place for place, holds in enumerate(seen.holds) if passed(number, state) in holds]
            places = _one([place for place in held if seen.results[place] is after] or held, seen)
            if len(names) == 1 and len(places) == 1:
                found[names[0]] = places[0]
    return found


def _one(places: Sequence[int], seen: Observation) -> list[int]:
    """The places; the last of them, where all hold the very same tensor."""
    same = all(seen.results[place] is seen.results[places[0]] for place in places)
    return list(places[-1:] if same else places)


def _kept(fitting: Mapping[str, Sequence[int]], seen: Observation) -> dict[str, int]:
    """Arguments whose values are in one result each, as those of a shift register are, along with others."""
    left = {
        name: {place for place in places if name in seen.holds[place] and seen.sources[place] - {name}}
        for name, places in fitting.items()
    }
    found: dict[str, int] = {}
    while single := next((name for name, places in left.items() if len(places) == 1), None):
        found[single] = left.pop(single).pop()
        left = {name: places - {found[single]} for name, places in left.items()}
    return {} if left else found


def _in_nests(fitting: Mapping[str, Sequence[int]], seen: Observation, paths: Mapping[str, Path]) -> dict[str, int]:
    """States that are given in one argument, and come back in the one part of the result that has the same structure.

    A tuple may come back as a list or a named tuple of as many; by the order of a dict nothing is told.
    """
    found: dict[str, int] = {}
    groups: dict[object, dict[Path, str]] = {}
    for name, (argument, *below) in paths.items():
        groups.setdefault(argument, {})[tuple(below)] = name
    parts: dict[Path, dict[Path, int]] = {}
    for place, path in enumerate(seen.paths):
        for depth in range(len(path)):
            parts.setdefault(path[:depth], {})[path[depth:]] = place
    for group in groups.values():
        if len(group) < 2 or not set(group.values()) <= set(fitting):
            continue
        same = [part for part in parts.values() if set(part) == set(group)]
        alike = [part for part in parts.values() if len(part) == len(group) and _flat(group) and _flat(part)]
        if len(same or alike) == 1:
            part = (same or alike)[0]
            order = group if same else part
            found |= {name: part[path] for name, path in zip(group.values(), order, strict=True)}
    return found


def _flat(part: Mapping[Path, object]) -> bool:
    """Whether it is a tuple, a list or a named tuple of tensors."""
    return all(len(path) == 1 and (isinstance(path[0], int) or path[0].startswith(".")) for path in part)


def _named(fitting: Mapping[str, Sequence[int]], names: Sequence[str], seen: Observation) -> dict[str, int]:
    found = {}
    for name in fitting:
        places = [place for place, other in enumerate(names) if other and _bare(other) == _bare(name)]
        places = [
            place for place in places if seen.results[place] is not seen.tensors[name]
        ]  # handed back: to be what, who knows
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
    while isinstance(module, Wrapper):
        module = module.module
    keyless = [place for place, key in enumerate(seen.keys) if not key]
    names = list(seen.keys)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    except (OSError, TypeError, SyntaxError):
        return names
    returns = [_returned(node.value) for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    if returns and all(other == returns[0] for other in returns) and len(returns[0]) == len(keyless):
        for place, name in zip(keyless, returns[0], strict=True):
            names[place] = name
    return names


def _returned(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Tuple | ast.List):
        return [name for element in node.elts for name in _returned(element)]
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES:
        node = node.func.value
    return [node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""]


def _question(module: nn.Module, open_: Sequence[str], fitting: Mapping[str, Sequence[int]], seen: Observation) -> str:
    places = sorted({place for name in open_ for place in fitting[name]})
    guess = [f"{name}:{place}" for name, place in zip(open_, places[-len(open_) :], strict=False)]
    names = {place: dotted(seen.paths[place]) for place in places}
    results = ", ".join(f"{place}{f' ({name})' if name != str(place) else ''}" for place, name in names.items())
    return (
        f"{type(module).__name__}.forward takes {' and '.join(open_)} and gives {len(places)} results of that shape, "
        f"{results}: nothing tells which carries on which; say so, as in states={guess!r} (ARGUMENT:RESULT), or "
        f"states={[f'{name}:' for name in open_]!r} for inputs that are no states; constants={{{open_[0]!r}: 0}} for one that "
        "is always the same"
    )
