import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import vit_flax
from vit_flax.blocks.module import Module
from vit_flax.models.vit import ViT
from vit_flax.taps import capture, capturing, watch

SMALL: dict[str, Any] = dict(image_size=8, patch_size=4, num_classes=3, dim=8, depth=2, heads=2, dim_head=4, mlp_dim=8)
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


class Inner(Module):
    """Two calls of one layer, a method beside the call, and a tap of another one's name."""

    def setup(self):
        self.layer = nn.Dense(4, name='layer')

    def double(self, x):
        return 2 * x

    def __call__(self, x, shift=0.0):
        return self.layer(self.tap('between', self.double(self.layer(x)))) + shift


class Outer(Module):
    """Captures inside: of one of two twins."""

    names: Any
    inputs: bool = False
    wrap: str = ''

    @nn.compact
    def __call__(self, x):
        kind = getattr(nn, self.wrap)(Inner) if self.wrap else Inner
        x = Inner(name='first')(x)
        inner = kind(name='second')
        with capturing(inner, self.names, inputs=self.inputs, argument='layers') as captured:
            x = inner(x, shift=1.0)
        return x, captured


def init(model, x):
    return jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape),
                        jax.eval_shape(model.init, jax.random.key(0), x))  # fmt: skip


X = np.ones((2, 4), np.float32)


def test_outside_of_a_module():
    """Outputs and taps by name; of two calls the last one; the model's result is as without."""
    model = Inner()
    variables = init(model, X)
    output, seen = capture(model, variables, X, 1.0, names=['layer', 'between'])
    np.testing.assert_array_equal(output, model.apply(variables, X, 1.0))
    np.testing.assert_allclose(seen['layer'] + 1, output)
    _, taken = capture(model, variables, X, names='layer', inputs=True)
    np.testing.assert_array_equal(taken['layer'][0], seen['between'])
    assert list(seen) == ['layer', 'between'] and isinstance(taken['layer'], tuple)
    for mutable in (True, [], 'batch_stats', ['batch_stats']):
        (same, state), seen = capture(model, variables, X, 1.0, names=(), mutable=mutable)
        np.testing.assert_array_equal(same, output)
        assert not seen and state.keys() == model.apply(variables, X, mutable=mutable)[1].keys() - {'intermediates'}


@pytest.mark.parametrize('trunk', [{}, {'scan': True}, {'remat': True}, {'scan': True, 'remat': True}], ids=str)
def test_under_every_transformation(trunk):
    """Values of a scanned trunk are stacked; gradients reach what lies before."""
    model = ViT(**SMALL, **trunk)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    block = 'transformer/block' if 'scan' in trunk else 'transformer/block_1'
    names = [f'{block}/attention', f'{block}/block', 'embedding']

    def run(variables):
        def loss(params):
            _, seen = capture(model, {**variables, 'params': params}, IMAGES, names=names)
            return seen[names[0]].sum(), seen

        return jax.grad(loss, has_aux=True)(variables['params'])

    _, seen = jax.eval_shape(jax.jit(run), variables)
    layers = (2,) if 'scan' in trunk else ()
    assert [seen[name].shape for name in names] == [(*layers, 2, 5, 8), (*layers, 2, 5, 8), (2, 5, 8)]


def test_inside_of_a_module():
    """Paths are those from the submodule, and its twin beside it does not count."""
    model = Outer(('layer', 'between'))
    variables = init(model, X)
    output, seen = model.apply(variables, X)
    np.testing.assert_allclose(seen['layer'] + 1, output)
    _, taken = Outer(('layer',), inputs=True).apply(variables, X)
    np.testing.assert_array_equal(taken['layer'][0], seen['between'])


@pytest.mark.parametrize('wrap', ['remat', 'jit'])
def test_inside_what_is_transformed(wrap):
    model = Outer(('layer',), wrap=wrap)
    with pytest.raises(ValueError, match=r"layers='layer' is inside a scanned or rematerialised part of \w*Inner"):
        jax.eval_shape(model.init, jax.random.key(0), X)


@pytest.mark.parametrize(
    'names, inputs, says',
    [
        ('layr', False, "names='layr' is no submodule or tap of the model: did you mean 'layer'?"),
        (['layer', 'zzz'], False, "names='zzz' is no submodule or tap of the model: there are between, layer"),
        ('', False, "names='' is no submodule or tap of the model"),
        ('double', False, "names='double' is no submodule or tap of the model"),
        ('between', True, "names='between' is no submodule of the model: there are layer"),
        ([3], False, 'names=3 is no submodule or tap of the model'),
        (None, False, 'names=None is no submodule or tap of the model'),
    ],
)
def test_unknown_names(names, inputs, says):
    model = Inner()
    variables = jax.eval_shape(model.init, jax.random.key(0), X)
    with pytest.raises(ValueError, match=re.escape(says)):
        jax.eval_shape(lambda variables: capture(model, variables, X, names=names, inputs=inputs), variables)
    with pytest.raises(ValueError, match=re.escape(says.replace('names', 'layers').replace('the model', 'Inner'))):
        jax.eval_shape(Outer(names, inputs).init, jax.random.key(0), X)


def test_calls_are_seen_in_order_and_can_be_replaced():
    model = Outer(('layer',))
    began, ended = [], []

    def before(call):
        began.append((*call.path, call.method))
        return (
            call.__class__(call.module, call.method, call.function, call.args, {'shift': 5.0}) if call.kwargs else None
        )

    variables = init(model, X)
    with watch(before, lambda call, output: ended.append((*call.path, call.method))):
        output, _ = model.apply(variables, X)
    np.testing.assert_allclose(output, model.apply(variables, X)[0] + 4)
    one = [('second', '__call__'), ('second', 'layer', '__call__'), ('second', 'double'), ('second', 'tap')]
    seen = [call for call in began if call in one]
    assert seen == [*one, one[1]]
    assert [call for call in ended if call in one] == [*one[1:], one[1], one[0]]
    assert began[0] == ended[-1] == ('__call__',)


def test_nothing_else_intercepts():
    root = Path(vit_flax.__file__).parents[1]
    files = [path for folder in ('vit_flax', 'train', 'parity_tests') for path in (root / folder).rglob('*.py')]
    found = {path.name for path in files if re.search(r'\bintercept_methods|capture_intermediates', path.read_text())}
    assert len(files) > 300 and found == {'taps.py', 'taps_test.py'}
