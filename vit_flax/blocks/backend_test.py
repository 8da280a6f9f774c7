import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

import vit_flax
from vit_flax.blocks.backend import compiling_for, platform
from vit_flax.models.nest import NesT
from vit_flax.models.vit import ViT
from vit_flax.models.xcit import XCiT

TPU = AbstractMesh((2,), ('data',), abstract_device=AbstractDevice(device_kind='TPU v5e', num_cores=1, platform='tpu'))


def test_the_innermost_statement_of_the_most_explicit_kind_decides():
    here = jax.default_backend()
    assert platform() == here
    with jax.default_device('tpu'):
        assert platform() == 'tpu'
        with jax.default_device(jax.devices('cpu')[0]):
            assert platform() == 'cpu'
            with jax.sharding.use_abstract_mesh(TPU):
                assert platform() == 'tpu'
                with compiling_for('cuda'):
                    assert platform() == 'gpu'
                    with compiling_for('cpu'):
                        assert platform() == 'cpu'
    with jax.sharding.use_abstract_mesh(AbstractMesh((2,), ('data',))):
        assert platform() == here
    assert platform() == here


@pytest.mark.parametrize('name', ['TPU', 'tpus', '', None, 3])
def test_unknown_platforms_are_refused(name):
    with pytest.raises(ValueError, match=re.escape(f'platform={name!r} must be one of cpu, cuda, gpu, rocm, tpu')):
        compiling_for(name)


def test_a_jitted_function_is_traced_once_for_each_platform():
    traced = []

    @jax.jit
    def run(x):
        traced.append(platform())
        return x

    for _ in range(2):
        run(1)
        for name in ('tpu', 'gpu'):
            with compiling_for(name):
                run(1)
                jax.eval_shape(run, 1)
    assert traced == [jax.default_backend(), 'tpu', 'gpu']


MODELS = {
    'attention': ViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, heads=2, dim_head=4, mlp_dim=8),
    'depthwise': XCiT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, cls_depth=1, heads=2, dim_head=4,
                      mlp_dim=8),
    'max_pool': NesT(image_size=16, patch_size=2, num_classes=3, dim=4, heads=1, num_hierarchies=2, block_repeats=1),
}  # fmt: skip


@pytest.mark.parametrize('name', MODELS)
def test_programs_hold_the_form_of_one_platform(name):
    """Also the training step: no branch by platform, nothing of a CPU in the program for a TPU."""
    model = MODELS[name]
    images = jax.ShapeDtypeStruct((2, *model.example_input().shape[1:]), jnp.float32)
    variables = dict(jax.eval_shape(model.init, jax.random.key(0), images))
    params = variables.pop('params')

    def loss(params, others, images):
        logits: Any = model.apply({'params': params, **others}, images)
        return logits.sum()

    step = jax.jit(jax.grad(loss))

    def program(on):
        with compiling_for(on):
            return step.trace(params, variables, images).lower(lowering_platforms=(on,)).as_text()

    native = {'attention': '', 'depthwise': r'feature_group_count = 8', 'max_pool': 'stablehlo.select_and_scatter'}
    for on, is_native in (('tpu', True), ('cpu', False)):
        text = program(on)
        assert 'stablehlo.case' not in text and 'platform_index' not in text
        assert (native[name] == '') or bool(re.search(native[name], text)) == is_native


def test_nothing_else_asks_for_the_platform():
    root = Path(vit_flax.__file__).parents[1]
    asks = re.compile(r'platform_dependent|default_backend|default_device|\bplatform\(\)')
    files = [path for folder in ('vit_flax', 'train') for path in (root / folder).rglob('*.py')]
    files = [path for path in files if not path.name.endswith('_test.py')]
    assert len(files) > 100 and {path.name for path in files if asks.search(path.read_text())} == {'backend.py'}
    # it has no derivative in forward mode; the trainer takes none
    assert not [path for path in files if 'custom_vjp' in path.read_text() and path.is_relative_to(root / 'vit_flax')]
