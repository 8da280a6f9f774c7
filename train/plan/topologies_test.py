"""Names of devices, and what connects them."""

from types import SimpleNamespace

import pytest

from train.errors import UserError
from train.plan.chips import CHIPS, chip_of
from train.plan.topologies import parse


@pytest.mark.parametrize(
    'name, shape',
    [
        ('v5e:1x1', (1, 1)), ('v5e:4x2', (4, 2)), ('v5e:16x16', (16, 16)), ('v6e:8x8', (8, 8)), ('v4:2x2x1', (2, 2, 1)),
        ('v4:4x4x8', (4, 4, 8)), ('v5p:8x8x16', (8, 8, 16)), ('gpu:8xh100', (8,)), ('gpu:16xA100', (16,)),
        ('gpu:h200', (1,)), ('cpu:3', (3,)),
    ],
)  # fmt: skip
def test_names(name, shape):
    assert parse(name).shape == shape


@pytest.mark.parametrize(
    'name, words',
    [
        ('v5e:3x5', 'no v5e slice has this shape, there are 1x1, 2x2'),
        ('v5e:32x32', 'no v5e slice has this shape'),
        ('v6e:0x0', 'no v6e slice'),
        ('v5e:4x4x4', 'has 2 sizes, such as 4x4'),
        ('v4:4x4', 'has 3 sizes, such as 4x4x4'),
        ('v5p:3x4x4', 'three multiples of 4, up to 6144 chips'),
        ('v5p:0x4x4', 'no v5p slice'),
        ('v4:64x64x64', 'up to 4096 chips'),
        ('v5litepod-8', 'name one such as v5e:16x16'),
        ('', 'name one such as'),
        ('v5e:', 'name one such as'),
        ('tpu:8', "'tpu' is no chip known here"),
        ('h100:8', "'h100' is no chip known here"),
        ('gpu:0xh100', 'between 1 and 4096'),
        ('gpu:12xh100', 'take a multiple of 8'),
        ('gpu:8xh1000', "did you mean 'h100'?"),
        ('gpu:8xv100', 'is no GPU known here'),
        ('gpu:8', 'is no GPU known here'),
        ('cpu:0', 'between 1 and 4096'),
        ('cpu:many', 'between 1 and 4096'),
        ('cpu:2x2', 'name one such as'),
    ],
)
def test_what_is_no_topology_is_said_in_a_line(name, words):
    with pytest.raises(UserError) as raised:
        parse(name)
    message = str(raised.value)
    assert message.startswith(f'topology={name!r}') and words in message and '\n' not in message


def test_without_the_compiler_for_tpus_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"^topology='v5e:2x2' needs .*: pip install 'vit-linen\[plan\]'$"):
        parse('v5e:2x2').devices()


@pytest.mark.parametrize(
    'name, group, links',
    [
        ('v5e:2x4', [(0, 0), (0, 1), (0, 2), (0, 3)], 1),  # a line
        ('v5e:2x4', [(0, 0), (1, 1)], 2),
        ('v5e:16x16', [(0, y) for y in range(16)], 2),  # a ring
        ('v5e:16x16', [(x, y) for x in range(16) for y in range(16)], 4),
        ('v4:4x4x8', [(0, 0, z) for z in range(8)], 2),
        ('v5p:2x2x1', [(0, 0, 0), (0, 1, 0)], 1),
    ],
)
def test_links_of_a_torus(name, group, links):
    topology = parse(name)
    devices = [SimpleNamespace(coords=(*place, 0)[:3]) for place in group]
    assert topology.bandwidth(devices, range(len(group))) == links * topology.chip.link


def test_links_of_boxes_of_gpus():
    topology = parse('gpu:16xh100')
    assert topology.bandwidth([], range(8)) == 450e9
    assert topology.bandwidth([], (0, 8)) == 50e9  # one adapter each
    assert topology.bandwidth([], range(16)) == 8 * 50e9


@pytest.mark.parametrize(
    'kind, chip',
    [
        ('TPU v5 lite', 'v5e'), ('TPU v5', 'v5p'), ('TPU v5p', 'v5p'), ('TPU v4', 'v4'), ('TPU v6 lite', 'v6e'),
        ('NVIDIA H100 80GB HBM3', 'h100'), ('NVIDIA H200', 'h200'), ('NVIDIA A100-SXM4-80GB', 'a100'), ('cpu', None),
        ('NVIDIA GeForce RTX 4090', None),
    ],
)  # fmt: skip
def test_chips_by_what_jax_calls_them(kind, chip):
    assert chip_of(kind) is (None if chip is None else CHIPS[chip])
