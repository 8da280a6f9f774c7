"""Every argument of every public constructor, given what it cannot be, generated from the annotations.

Each value must end in one ValueError or TypeError that names the argument, in the constructor or when the model is
traced; or the model works. Run from the repository's root:

    python benchmarks/arguments.py            all of them (minutes)
    python benchmarks/arguments.py cait mae   of some files
"""

import argparse
import dataclasses
import math
import re
import signal
import typing
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from parity_tests.case import Case, all_cases
from parity_tests.objective_case import ObjectiveCase, all_objective_cases

NUMBERS = (
    0,
    -1,
    10**9,
    2**31,
    10**30,
    1.5,
    -0.5,
    math.nan,
    math.inf,
    True,
    None,
    'seven',
    [],
    (0, 0),
    (-1, 2),
    (2, 3, 4),
)
OTHERS = (None, 3, 'nothing', [])


def constructors() -> dict[tuple[str, str, str], Case]:
    """The first case of each class of the models and the objectives."""
    cases: dict[tuple[str, str, str], Case] = {}
    for case in (*all_cases(), *all_objective_cases()):
        cases.setdefault((case.folder, case.stem, case.class_name), case)
    return cases


def wicked(case: Case) -> Iterator[tuple[str, Any]]:
    """Arguments of a constructor, each with values that it hardly can be."""
    model = case.flax_model()
    hints = typing.get_type_hints(type(model))
    for field in dataclasses.fields(model):
        if field.name in ('parent', 'name', 'dtype', 'param_dtype') or not field.init:
            continue
        numeric = any(kind in str(hints[field.name]) for kind in ('int', 'float', 'bool'))
        for value in NUMBERS if numeric else OTHERS:
            yield field.name, value


def outcome(case: Case, name: str, value: Any, run: bool = True) -> str:
    """'refused', 'works', 'accepted' by the constructor if it is not to be run, or what is wrong."""
    try:
        model = dataclasses.replace(case, kwargs={**case.kwargs, name: value}).flax_model()
        if not run:
            return 'accepted'
        trace(case, model)
    except ValueError as error:
        # what contradicts another argument, or the input, may be said of that
        names = [field.name for field in dataclasses.fields(type(case.flax_model()))]
        first = re.match(r'(\w+)=', str(error))
        says = any(f'{known}=' in str(error) for known in names) or 'shape' in str(error) or name in str(error)
        # an argument that is handed on may be called by its plain name: siglip_image_size is an image_size
        says |= first is not None and name.endswith(first[1])
        return 'refused' if says else f'does not say which: {error}'
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return 'works'


def trace(case: Case, model: Any) -> None:
    """Initialises and runs the model of a case, shapes only."""
    now = case.at(0) if isinstance(case, ObjectiveCase) else case
    inputs = [jax.ShapeDtypeStruct(spec.shape, jnp.float32) for spec in now.inputs]
    call = {**now.call, **now.options}
    if now.listed is not None:
        inputs, call = [model.example_input()], {}
    rngs = {name: jax.random.key(0) for name in ('params', 'dropout', 'drop_path', 'mask', 'tokens', 'projections')}
    jax.eval_shape(lambda *inputs: model.init(rngs, *inputs, train=True, **call), *inputs)


def too_long(*_: Any) -> None:
    raise TimeoutError('half a minute was not enough')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('stems', nargs='*')
    chosen = parser.parse_args().stems
    signal.signal(signal.SIGALRM, too_long)
    count: Counter[str] = Counter()
    for (folder, stem, name), case in constructors().items():
        if chosen and stem not in chosen:
            continue
        for argument, value in wicked(case):
            signal.alarm(30)
            result = outcome(case, argument, value)
            signal.alarm(0)
            count[result if result in ('refused', 'works') else 'wrong'] += 1
            if result not in ('refused', 'works'):
                print(f'{folder}/{stem}.{name}({argument}={value!r}): {result[:300]}')
    print(', '.join(f'{number} {result}' for result, number in count.items()))


if __name__ == '__main__':
    main()
