"""Every option of every recipe with values that make no sense, generated from the dataclasses."""

import contextlib
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from train import catalogue, commands, objectives, recipes, sources
from train.config import Config, check, from_json, to_json
from train.errors import UserError
from train.optim import schedule
from train.values import check_values

WRONG: tuple[Any, ...] = (
    0, -1, 1, 2, 3, -(2**31), 2**31, 2**63, 10**30, 0.0, -0.5, 1.5, 1e-300, 1e300, math.nan, math.inf, -math.inf,
    None, True, '', 'x', '~nobody/x', 'a' * 300, '/' * 5000, '\0', '\udcff',
    (), (0, 0), (math.nan, 1.0), (1,) * 50, {}, [], b'x',
)  # fmt: skip


def leaves(part: Any, prefix: str = ''):
    """Dotted names of all fields, those of parts too."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f'{prefix}{field.name}.')
        else:
            yield f'{prefix}{field.name}'


def replaced(part: Any, key: str, value: Any) -> Any:
    first, _, rest = key.partition('.')
    return dataclasses.replace(part, **{first: replaced(getattr(part, first), rest, value) if rest else value})


def configs() -> dict[str, Config]:
    """A recipe, for what all have in common, and the same with every data set and every objective."""
    digits = recipes.find('digits').CONFIG
    found = {'every recipe': digits}
    for name in sources.names():
        found[f'data {name}'] = dataclasses.replace(digits, data=sources.find(name)())
    for name in objectives.names():
        found[f'objective {name}'] = dataclasses.replace(digits, objective=objectives.find(name)())
    return found


@pytest.mark.parametrize('name', configs())
def test_every_option_is_of_its_type_and_in_proportion_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configs()[name]
    first, refused = name.partition(' ')[0], 0
    keys = [key for key in leaves(config) if first == 'every' or key.startswith(first)]
    for key in keys:
        for value in WRONG:
            tried = replaced(config, key, value)
            try:
                check(tried)
            except UserError as error:
                message = str(error)
                assert '\n' not in message and len(message) < 700, (key, value)
                refused += 1
                continue
            # What is let through is what a run can be made of.
            written = json.loads(json.dumps(to_json(tried)))
            assert to_json(from_json(written)) == written, (key, value)
            rates = [float(schedule(tried.optim, tried.steps)(step)) for step in (0, 1, tried.steps)]
            assert all(math.isfinite(rate) and rate >= 0 for rate in rates), (key, value)
            if key.startswith('augment') and tried.augment.image_size <= 512:
                stored = {'image': np.zeros((9, 7, 3), np.uint8)}
                for seen in (tried.augment.train(stored, np.random.default_rng(0)), tried.augment.evaluate(stored)):
                    assert seen['image'].dtype == np.uint8
    assert refused >= 10 * len(keys)


@pytest.mark.parametrize('name', commands.names())
def test_every_argument_of_a_command_is_of_its_type(name):
    command = commands.find(name)
    fields = {field.name for field in dataclasses.fields(command)}
    required = {'run': 'x', 'images': (), 'recipe': 'x', 'topology': 'x'}
    given: dict[str, Any] = {key: value for key, value in required.items() if key in fields}
    chosen = command(**given)
    check_values(chosen)
    for key in leaves(chosen):
        with pytest.raises(UserError, match=f'^{key}=.* must be '):
            check_values(replaced(chosen, key, b'x'))
        with pytest.raises(UserError, match=f'^{key}=.* must be '):
            check_values(replaced(chosen, key, math.nan))


def test_a_config_of_a_run_with_any_value_is_read_or_refused():
    written = to_json(dataclasses.replace(recipes.find('dino').CONFIG, out='runs/x'))
    for key in leaves(from_json(json.loads(json.dumps(written)))):
        values: tuple[Any, ...] = (None, True, 'x', -1, 1e400, [], [[]], {}, {'a': 1}, [None] * 3)
        for value in values:
            damaged = json.loads(json.dumps(written))
            part = damaged
            *parents, last = key.split('.')
            for parent in parents:
                part = part[parent]
            part[last] = value
            with contextlib.suppress(UserError):  # nothing else
                from_json(damaged)
    for part in ('data', 'objective', 'model', 'optim', 'augment'):
        for value in (None, 3, [], {}, 'x', {'name': 3}):
            with contextlib.suppress(UserError):
                from_json({**written, part: value})
    assert catalogue.name_of(from_json(written).objective) == 'dino'
