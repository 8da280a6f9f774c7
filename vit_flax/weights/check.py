"""The one report of all names of a state dict that are missing, unexpected or of another shape."""

import difflib
from collections.abc import Mapping

from vit_flax.printing import shown

# Pairs of names that are compared, to find the nearest.
MAX_PAIRS = 10**6


def problems(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A line for each name on one side alone, with the nearest of those on the other side alone, and for each shape."""
    missing, unexpected = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    found = []
    for kind, names, others in (('missing', missing, unexpected), ('unexpected', unexpected, missing or [*expected])):
        # each pair takes some ten microseconds
        some = others if len(names) * len(others) < MAX_PAIRS else []
        for name in names:
            near = difflib.get_close_matches(name, some, n=1)
            found.append(f'{kind}: {shown(name)}' + (f' (nearest: {shown(near[0])})' if near else ''))
    return found + [
        f'shape of {name}: the model has {expected[name]}, the state dict {given[name]}'
        for name in sorted(expected.keys() & given.keys())
        if given[name] != expected[name]
    ]
