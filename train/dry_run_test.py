"""`--dry-run` counts, makes a step, and leaves nothing behind."""

import re

import jax
import pytest

from train.cli import main
from train.conftest import TINY


def dry(capsys, tmp_path, *args, recipe='digits'):
    assert main([recipe, *args, '--dry-run', '--out', str(tmp_path / 'run')]) == 0
    out, err = capsys.readouterr()
    assert err == '' and not (tmp_path / 'run').exists()
    return out


def number(pattern, out):
    found = re.search(pattern, out)
    assert found, out
    scale = {'': 1, 'k': 1e3, 'M': 1e6, 'G': 1e9}[found[2] if found.lastindex == 2 else '']
    return float(found[1].replace(',', '')) * scale


def test_it_counts_and_steps(capsys, tmp_path):
    out = dry(capsys, tmp_path, *TINY)
    # Embedding, two blocks and head by hand: their matrices, one addition for each multiplication.
    tokens, dim, inner, hidden, patch = 5, 16, 16, 24, 64
    block = tokens * dim * (3 * inner) + 2 * tokens**2 * inner + tokens * inner * dim + 2 * tokens * dim * hidden
    matrices = 2 * (4 * patch * dim + 2 * block + dim * 10)
    forward = number(r'forward pass: .*, ([\d.]+) ?(k?M?) for each image', out)
    assert forward == pytest.approx(matrices, rel=1e-3)
    # Backward costs twice as much again: there is a norm before the first matrix, too.
    step = number(r'one step: [\d.]+ ?\w?, ([\d.]+) ?(k?M?) for each image', out)
    assert step == pytest.approx(3 * matrices, rel=1e-3)
    assert re.search(r'parameters +5,322 +20.79 KiB +20.79 KiB', out)
    assert re.search(r'average \(EMA\) +5,322 ', out)
    assert re.search(r'transformer/block_\{0..1\}/attention/to_qkv/kernel +\[16 48\] +1,536 +float32 +decay', out)
    assert 'image [64 16 16 1] uint8, label [64] int32; real data' in out
    assert 2 < number(r'one step: loss ([\d.]+)', out) < 3


def test_scanned_blocks_and_parts_count_as_often_as_they_run(capsys, tmp_path):
    plain, scanned = (
        dry(capsys, tmp_path, *TINY, '--model.dropout=0', *more)
        for more in ((), ('--model.scan', '--optim.accumulate=2'))
    )
    count = r'forward pass: ([\d.]+) ?(k?M?)'
    assert number(count, scanned) == number(count, plain)
    count = r'FLOPs of one step: ([\d.]+) ?(k?M?)'
    assert number(count, scanned) == number(count, plain)


def test_what_is_split_is_said(capsys, tmp_path):
    mesh = ['--mesh.fsdp=2', '--mesh.tensor=2', '--mesh.fsdp-min-size=100']
    out = dry(capsys, tmp_path, *TINY, *mesh, '--optim.groups', 'transformer/.*', 'frozen', '.*', 'plain')
    assert re.search(r'to_qkv/kernel +\[16 48\] .* frozen +fsdp tensor', out)
    assert number(r'parameters +5,322 +20.79 KiB +([\d.]+) KiB', out) < 20.79 / 2
    assert len(jax.devices()) == 8


def test_without_the_data_it_takes_noise(capsys, tmp_path):
    out = dry(capsys, tmp_path, '--data.path', str(tmp_path / 'none'), '--batch-size=8', '--model.name=simple_vit',
              '--model.patch-size=8', '--model.dim=16', '--model.depth=1', '--model.heads=2', '--model.mlp-dim=16',
              '--model.dim-head=8', recipe='cifar10')  # fmt: skip
    assert 'image [8 32 32 3] uint8' in out and "NOISE, since the data are not there: data.path='" in out
    assert 'one step: loss' in out


def test_it_begins_where_the_run_would(finished, capsys, tmp_path):
    out = dry(capsys, tmp_path, *TINY, '--init', str(finished), '--model.num-classes=12')
    assert f'of {finished} (vit, best checkpoint' in out and 'new: mlp_head/bias, mlp_head/kernel' in out
