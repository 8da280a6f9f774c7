import numpy as np
import pytest

from vit_flax.weights.rows import Rearrange, Row, match, renamed, to_ours, to_theirs

ROWS = (
    Row(('layer.{i}.q', 'layer.{i}.k', 'layer.{i}.v'), 'blocks.{i}.qkv'),
    Row('pool.in_proj', ('pool.q', 'pool.kv'), shares=(1, 2)),
    Row('cls', 'token', Rearrange('d -> 1 1 d')),
    Row('head/kernel', 'head.weight', Rearrange('d e k -> (e k) d', (('e', 2),))),
    Row('norm', 'last_norm'),
)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        f'layer.{i}.{part}.{leaf}': (4, 4)[: 2 - (leaf == 'bias')]
        for i in (0, 11)
        for part in 'qkv'
        for leaf in ('weight', 'bias')
    }
    shapes |= {'pool.in_proj': (6, 5), 'cls': (4,), 'head/kernel': (4, 2, 3), 'norm.weight': (4,), 'norm.bias': (4,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def test_there_and_back():
    theirs = arrays()
    ours, rest = to_ours(ROWS, theirs | {'norms.weight': np.ones(1)})
    assert [*rest] == ['norms.weight']  # a name that begins with a pattern does so up to a dot
    shapes = {name: x.shape for name, x in ours.items() if not name.startswith(('blocks.0', 'last'))}
    assert shapes == {
        'blocks.11.qkv.weight': (12, 4),
        'blocks.11.qkv.bias': (12,),
        'pool.q': (2, 5),
        'pool.kv': (4, 5),
        'token': (1, 1, 4),
        'head.weight': (6, 4),
    }
    np.testing.assert_array_equal(ours['blocks.11.qkv.weight'][4:8], theirs['layer.11.k.weight'])
    np.testing.assert_array_equal(ours['pool.kv'], theirs['pool.in_proj'][2:])
    np.testing.assert_array_equal(ours['head.weight'].reshape(2, 3, 4), theirs['head/kernel'].transpose(1, 2, 0))
    back, rest = to_theirs(ROWS, ours)
    assert not rest and back.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array)


def test_mistakes():
    theirs = arrays()
    with pytest.raises(ValueError, match=r'holds layer\.0\.q\.bias without layer\.0\.k\.bias'):
        to_ours(ROWS, {name: x for name, x in theirs.items() if name != 'layer.0.k.bias'})
    with pytest.raises(
        ValueError, match=r'parts of one array that do not fit each other: layer\.0\.q\.weight \(4, 4\)'
    ):
        to_ours(ROWS, theirs | {'layer.0.v.weight': np.ones((4, 3))})
    with pytest.raises(ValueError, match=r'cls of shape \(2, 3\) does not fit'):
        to_ours(ROWS, theirs | {'cls': np.ones((2, 3))})
    older = (*ROWS, Row('class_token', 'token'))
    with pytest.raises(ValueError, match='holds token twice, under names of several releases'):
        to_ours(older, theirs | {'class_token': np.ones((1, 1, 4))})


def test_patterns():
    assert match('a.{i}.b', 'a.12.b.weight') == {'i': '12', 'rest': '.weight'}
    assert match('a.{i}.b', 'a.x.b') is None and match('a.{i}.b', 'a.1.bc') is None
    assert match('', 'any.name') == {'rest': 'any.name'}
    assert renamed(ROWS, 'layer.3.v.bias') == 'blocks.3.qkv.bias' and renamed(ROWS, 'other') == 'other'
