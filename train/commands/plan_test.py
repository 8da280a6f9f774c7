"""`python -m train plan`, as it is typed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from train.cli import main
from train.conftest import ROOT, TINY

# Bytes of a device on which not everything fits.
MEMORY = 2_000_000
SMALL = ('--model.dim=32', '--model.depth=2', '--model.heads=2', '--model.dim-head=16', '--model.mlp-dim=64')


def planned(capsys, *args):
    assert main(['plan', *args]) == 0
    out, err = capsys.readouterr()
    assert err == ''
    return out


def test_a_plan_in_words(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = planned(capsys, 'digits', '--topology', 'cpu:8', *TINY, '--mesh.fsdp=8', '--mesh.fsdp-min-size=100')
    for words in ('vit on cpu:8: 8 x CPU of this machine', 'fsdp=8; batch 64 (8 a device), float32', 'it fits'):
        assert words in out
    for row in ('parameters', 'optimizer', 'average (EMA)', 'activations and temporaries'):
        assert f' {row} ' in out
    assert 'all-gather' in out and 'transformer/block_*/attention/to_qkv' in out
    assert not any(tmp_path.iterdir())


def test_a_plan_in_json_of_data_that_are_not_there(capsys):
    size = ('--model.name=simple_vit', '--model.patch-size=56', *SMALL)
    out = planned(capsys, '--json', '--topology=gpu:8xh100', 'imagenet', *size, '--batch-size=16', '--model.remat=full')
    found = json.loads(out)
    assert found['fits'] is True and found['limit_gib'] == pytest.approx(0.75 * 80e9 / 2**30)
    # 16 patches; two blocks and the head by hand, forward and twice as much backward, but for the pixels
    block = 16 * 32 * 96 + 2 * 16 * 16 * 32 + 16 * 32 * 32 + 2 * 16 * 32 * 64
    needed = 2 * 16 * (16 * 3 * 56**2 * 32 + 2 * block + 32 * 1000)
    assert found['model_flops'] == pytest.approx(3 * needed, rel=1e-6)
    # What remat computes twice is in the program, and not in what the model needs.
    assert found['model_flops'] < 8 * found['flops'] < 4 / 3 * found['model_flops']
    assert found['collectives']['all-reduce']['count'] >= 1
    reduced = sum(kind['bytes'] for kind in found['collectives'].values())
    assert reduced == pytest.approx(found['parts_gib']['parameters'] * 2**30, rel=0.6)
    assert found['step_seconds'] == max(found['seconds'].values())
    assert found['utilisation'] == pytest.approx(found['model_flops'] / (8 * 989e12 * found['step_seconds']))
    assert found['state_gib'] <= found['arguments_gib'] < found['total_gib']


@pytest.mark.parametrize(
    'args, words',
    [
        (['digits'], '--topology NAME'),
        (['digits', '--topology', 'v5e:3x5'], 'no v5e slice has this shape'),
        (['digits', '--topology', 'gpu:0xh100'], 'between 1 and 4096'),
        (['digitz', '--topology', 'cpu:8'], "did you mean 'digits'?"),
        (['digits', '--topology', 'cpu:8', '--batch-size', '12'], 'take a multiple of 8'),
        (['digits', '--topology', 'cpu:8', '--mesh.fsdp', '3'], 'does not divide the 8 devices'),
        (['digits', '--topology', 'cpu:8', '--steps', '0'], 'steps=0'),
        (['digits', '--topology', 'cpu:8', '--model.patch-size', '5'], 'patch_size'),
        (['imagenet', '--topology', 'cpu:8', '--augment.image-size', '0'], '--augment.image-size'),
        (['distill', '--topology', 'cpu:8'], 'objective.teacher is missing'),
        (['digits', '--topolgy', 'cpu:8'], '--topology'),
        (['digits', '--topology', 'cpu:8', '--model.dept', '3'], '--model.depth'),
        ([], 'RECIPE'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_a_mistake_is_said_and_ends_with_2(args, words, capsys):
    code: object
    try:
        code = main(['plan', *args])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2 and words in out + err and 'Traceback' not in out + err
    if err.startswith('error: '):  # the other ones are boxes of tyro
        assert err.count('\n') == 1


def test_what_does_not_fit_is_changed_until_it_does(capsys, monkeypatch):
    pages = os.sysconf
    small = {'SC_PHYS_PAGES': 8 * MEMORY // 4096, 'SC_PAGE_SIZE': 4096}
    monkeypatch.setattr(os, 'sysconf', lambda name: small.get(name) or pages(name))
    args = ('--topology=cpu:8', *SMALL, '--batch-size=128', '--model.scan', '--optim.groups', '.*', 'plain')
    out = planned(capsys, 'digits', *args)
    assert 'it does NOT fit' in out and 'tried one after the other' in out
    recommended = next(line for line in out.splitlines() if line.startswith('recommended: '))
    assert "--batch-size=128 --model.scan --optim.groups '.*' plain --" in recommended
    assert 'topology' not in recommended
    assert out.count('it fits') == 1


@pytest.mark.exhaustive
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason="needs pip install 'vit-linen[plan]'")
def test_a_plan_for_a_tpu_slice():
    command = [sys.executable, '-m', 'train', 'plan', 'digits', '--topology', 'v5e:2x2', *TINY, '--json']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    found = json.loads(done.stdout)
    assert found['fits'] and found['limit_gib'] == 15.75 and found['chips'] == 4
    assert found['model_flops'] == pytest.approx(4 * found['flops'], rel=0.3)
    assert found['collectives'] and 0 < found['utilisation'] < 1
