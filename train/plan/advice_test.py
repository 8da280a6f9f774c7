"""Rooflines by hand, and what is recommended where a step does not fit; nothing is compiled."""

import dataclasses
import math

import pytest

from train import recipes
from train.config import Mesh
from train.errors import UserError
from train.plan import advice
from train.plan.advice import advise, applied, search
from train.plan.chips import GIB
from train.plan.options import as_options
from train.plan.step import Exchange, Plan, _asked
from train.plan.topologies import parse

V5E = parse('v5e:4x4')
CONFIG = dataclasses.replace(recipes.find('imagenet').CONFIG, batch_size=512)


def plan(**changes):
    common = dict(
        topology=V5E, mesh={'data': 16, 'fsdp': 1, 'tensor': 1, 'seq': 1}, batch_size=512, dtype='bfloat16',
        state={'parameters': GIB, 'optimizer': 2 * GIB}, arguments=3.5 * GIB, temporaries=4 * GIB, program=0.25 * GIB,
        flops=197e12, needed=12 * 197e12, traffic=819e9 / 2, collectives={'all-reduce': {'count': 2, 'bytes': 9}},
        exchanges=[Exchange('all-reduce', 'a', 2, 9, 0.25, 0.25)], refused='', compile_seconds=1.0, notes=[],
    )  # fmt: skip
    return Plan(**{**common, **changes})


def test_the_roofline_by_hand():
    found = plan()
    assert found.times == {'compute': 1.0, 'memory': 0.5, 'interconnect': 0.25}
    assert (found.bound, found.step_seconds, found.utilisation) == ('compute', 1.0, 12 / 16)
    slow = plan(traffic=2 * 819e9)
    assert (slow.bound, slow.step_seconds, slow.utilisation) == ('memory', 2.0, 12 / 32)
    assert plan(dtype='float32', topology=parse('gpu:8xh100'), flops=494e12).times['compute'] == 1.0


def test_what_fits():
    assert plan().fits and plan().total == 7.75 * GIB
    assert plan(temporaries=12 * GIB).fits and not plan(temporaries=12.01 * GIB).fits
    refused = plan(refused='RESOURCE', temporaries=math.nan, traffic=None, exchanges=None, collectives=None)
    assert not refused.fits and refused.step_seconds is None and refused.utilisation is None
    told = refused.json()
    assert told['fits'] is False and told['collectives'] is None and told['step_seconds'] is None


@pytest.mark.parametrize(
    'message, size',
    [
        ('the total memory required for HLO temporaries (42.71G) exceeds available HBM (15.75G).', 42.71 * GIB),
        ('Ran out of memory in memory space hbm. Used 512.5M of 15.75G hbm.', 512.5 * 2**20),
    ],
)
def test_what_a_compiler_asked_for(message, size):
    assert _asked(message) == size


def test_json_has_what_is_promised():
    found = plan().json()
    promised = {
        'fits', 'limit_gib', 'arguments_gib', 'temporaries_gib', 'state_gib', 'flops', 'collectives', 'step_seconds',
        'utilisation',
    }  # fmt: skip
    assert promised <= set(found)
    assert (found['limit_gib'], found['state_gib'], found['temporaries_gib']) == (15.75, 3.0, 4.0)
    assert found['collectives'] == {'all-reduce': {'count': 2, 'bytes': 9}}


def test_changes_are_options():
    changes = {'mesh.fsdp': 16, 'model.remat': True, 'model.scan': False, 'batch_size': 256, 'optim.accumulate': 2}
    changed = applied(CONFIG, changes)
    assert (changed.mesh.fsdp, changed.batch_size, changed.optim.accumulate) == (16, 256, 2)
    assert (changed.model.args['remat'], changed.model.args['scan']) == (True, False)
    assert as_options(changes) == [
        '--mesh.fsdp', '16', '--model.remat', '--model.no-scan', '--batch-size', '256', '--optim.accumulate', '2',
    ]  # fmt: skip


@pytest.fixture
def compiles(monkeypatch):
    """A compiler that needs 20 GiB for a batch whose activations are all kept, and 16 GiB for the state."""
    seen = []

    def plan_step(config, topology):
        seen.append(config)
        rows = config.batch_size / 512 / config.optim.accumulate / config.mesh.tensor
        again = config.model.args.get('remat') == 'full'
        if config.mesh.tensor > 4:
            raise UserError(f'mesh.tensor={config.mesh.tensor} does not divide the heads')
        return plan(
            arguments=16 * GIB / (config.mesh.fsdp * config.mesh.tensor),
            state={'all': 16 * GIB / (config.mesh.fsdp * config.mesh.tensor)},
            temporaries=rows * (20 / 4**again) * seen_scale[0] * GIB,
            flops=(4 if again else 3) * 1e12 * config.mesh.tensor,
            traffic=0.0,
            exchanges=[],
        )

    seen_scale = [1.0]
    monkeypatch.setattr(advice, 'plan_step', plan_step)
    return plan_step, seen, seen_scale


def advised(compiles, config=CONFIG, scale=1.0):
    compile_, seen, seen_scale = compiles
    seen_scale[0] = scale
    said = []
    first = compile_(config, V5E)
    seen.clear()
    return advise(config, V5E, first, lambda changes, found: said.append(changes)), said


def test_what_needs_too_much_is_changed_until_it_fits(compiles):
    (changes, found), said = advised(compiles)
    assert changes == said[-1] and changes['mesh.fsdp'] == 16 and changes['model.remat'] == 'full'
    assert len(said) == 2 and said[0] == {'mesh.fsdp': 16}
    assert found.fits and 'optim.accumulate' not in changes
    (changes, _), _ = advised(compiles, scale=8.0)
    assert changes['optim.accumulate'] == 4
    (changes, _), _ = advised(compiles, scale=300.0)
    assert (changes['optim.accumulate'], changes['mesh.tensor'], changes['mesh.fsdp']) == (32, 4, 4)
    assert advised(compiles, scale=1e9)[0] is None


def test_what_is_there_already_is_not_advised(compiles):
    config = applied(CONFIG, {'mesh.fsdp': 16, 'model.remat': 'full'})
    (changes, _), _ = advised(compiles, config, scale=8.0)
    assert set(changes) == {'optim.accumulate'}


def test_the_search_takes_the_fastest_that_fits(compiles):
    said = []
    best = search(CONFIG, V5E, lambda changes, found: said.append((changes, found)))
    assert best is not None
    changes, found = best
    assert found.fits and changes['model.remat'] == 'full' and 'mesh.tensor' not in changes
    fitting = [one for _, one in said if not isinstance(one, str) and one.fits]
    assert found.step_seconds == min(one.step_seconds or 0.0 for one in fitting)
    assert {changes.get('mesh.tensor', 1) for changes, _ in said} == {1, 4}
    assert CONFIG.mesh == Mesh()
