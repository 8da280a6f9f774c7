"""Every argument of every public constructor, given what it cannot be; and models as values."""

import dataclasses
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import vit_flax
from benchmarks.arguments import outcome, wicked
from parity_tests.case import Case, all_cases
from parity_tests.objective_case import ObjectiveCase
from parity_tests.upstream import upstream_module
from vit_flax.models.vit import ViT
from vit_flax.transformers.x_transformers import Encoder
from vit_flax.wrappers.extractor import Extractor
from vit_flax.wrappers.recorder import Recorder

SMALL = dict(image_size=16, patch_size=8, num_classes=3, dim=8, depth=2, heads=2, dim_head=4, mlp_dim=8)


def test_wicked_arguments(class_case: Case):
    """Refused by the constructor, or worth a trace: of those one in twenty, `benchmarks/arguments.py` has them all."""
    accepted = []
    for name, value in wicked(class_case):
        result = outcome(class_case, name, value, run=False)
        assert result in ('refused', 'accepted'), f'{name}={value!r}: {result}'
        accepted += [(name, value)] if result == 'accepted' else []
    rng = np.random.default_rng(len(accepted))
    for index in rng.permutation(len(accepted))[: len(accepted) // 20]:
        name, value = accepted[index]
        assert outcome(class_case, name, value) in ('refused', 'works'), f'{name}={value!r}'


def test_names_and_defaults_are_upstreams(class_case: Case):
    """None stands for a dict, made anew each time, and for what upstream requires but another argument replaces."""
    path, name = class_case.whole.path, class_case.class_name
    theirs = getattr(upstream_module(class_case.stem), name, None)
    if theirs is None:
        pytest.skip('upstream has no such class')
    ours = defaults(getattr(importlib.import_module(f'vit_flax.{path}'), name))
    for parameter in inspect.signature(theirs).parameters.values():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            assert parameter.name in ours
            mine, default = ours[parameter.name], parameter.default
            replaced = mine is None and (default is parameter.empty or isinstance(default, dict))
            assert replaced or as_tuple(mine) == as_tuple(default), parameter.name


def test_ours_alone_change_nothing_unless_asked_for(class_case: Case):
    ours = defaults(getattr(importlib.import_module(f'vit_flax.{class_case.whole.path}'), class_case.class_name))
    assert not any(ours.get(name) for name in ('scan', 'remat', 'dtype'))


def defaults(constructor: Callable) -> dict[str, object]:
    fields = dataclasses.fields(constructor) if dataclasses.is_dataclass(constructor) else ()
    made = {field.name: field.default_factory() for field in fields if field.default_factory is not dataclasses.MISSING}
    return {name: parameter.default for name, parameter in inspect.signature(constructor).parameters.items()} | made


def as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    'arguments, says',
    [
        (dict(depth=-1), 'depth=-1 must be at least 0'),
        (dict(dim=0), 'dim=0 must be at least 1'),
        (dict(dim=10**30), 'dim=.* must be at most 16777216'),
        (dict(heads=True), 'heads=True must be an integer at least 1'),
        (dict(heads=2.0), 'heads=2.0 must be an integer at least 1'),
        (dict(dropout=2), 'dropout=2 must be between 0 and 1'),
        (dict(dropout=float('nan')), 'dropout=nan must be a finite number between 0 and 1'),
        (dict(scan=1), 'scan=1 must be True or False'),
        (dict(patch_size=(8, 0)), r'patch_size=\(8, 0\) must be an integer at least 1 or a sequence'),
        (dict(pool=3), 'pool=3 must be a string'),
    ],
)
def test_what_a_refusal_says(arguments, says):
    with pytest.raises(ValueError, match=says):
        ViT(**{**SMALL, **arguments})


def test_what_is_no_model_is_checked_too():
    for make in (Recorder, Extractor):
        with pytest.raises(ValueError, match='vit=3 must be a Flax module'):
            make(3)
    with pytest.raises(ValueError, match='depth=-2 must be at least 0'):
        Encoder(dim=8, depth=-2, heads=2)


def test_models_are_values():
    """They hash and compare by value, so that jit takes them as static arguments."""
    for case in all_cases():
        model, again = case.flax_model(), case.flax_model()
        assert model == again and hash(model) == hash(again)
        assert model != case.flax_model(param_dtype=jnp.bfloat16)


def test_training_mode_is_off_unless_asked_for(first_case: Case):
    """In every module, also in those that others always tell."""
    training_is_off(f'vit_flax.{first_case.whole.path}')


def test_training_mode_of_an_objective(first_objective_case: ObjectiveCase):
    training_is_off(f'vit_flax.{first_objective_case.whole.path}')


def test_training_mode_of_what_models_share():
    for package in ('blocks', 'transformers', 'wrappers'):
        name = f'vit_flax.{package}'
        for info in pkgutil.walk_packages(importlib.import_module(name).__path__, f'{name}.'):
            if not info.name.endswith('_test'):
                training_is_off(info.name)


def training_is_off(name: str) -> None:
    """In all linen modules that a file defines."""
    for _, kind in inspect.getmembers(importlib.import_module(name), inspect.isclass):
        if issubclass(kind, nn.Module) and kind.__module__ == name:
            for _, method in inspect.getmembers(kind, inspect.isfunction):
                train = inspect.signature(method).parameters.get('train')
                assert train is None or train.default in (False, train.empty), method.__qualname__


def test_images_without_room_for_a_patch():
    model = ViT(**SMALL)
    with pytest.raises(ValueError, match=r'images=\(4, 16\) has no room for one of patch_size=\(8, 8\)'):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 16, 3), jnp.float32))


def test_inputs_of_no_size(first_case: Case):
    """Images of 0 x 0, series of no steps: one ValueError each."""
    if first_case.listed is not None:
        pytest.skip('its inputs are lists')
    kept = 'b', 'c', 'v', 'f'
    layouts = [zip(spec.shape, spec.layout.split(), strict=True) for spec in first_case.inputs]
    shapes = [[size if axis in kept else 0 for size, axis in layout] for layout in layouts]
    call = {**first_case.call, **first_case.options}
    with pytest.raises(ValueError):
        jax.eval_shape(
            lambda *inputs: first_case.flax_model().init(jax.random.key(0), *inputs, **call),
            *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes),
        )


def test_an_empty_batch_is_computed():
    model = ViT(**SMALL)
    variables = ones_for(model)
    loss = jax.jit(jax.value_and_grad(lambda variables, images: model.apply(variables, images).sum()))
    value, grads = loss(variables, jnp.zeros((0, 16, 16, 3)))
    assert value == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_positions_of_other_places_are_warned_of_once():
    model = ViT(**{**SMALL, 'image_size': (24, 32)})
    init = jax.ShapeDtypeStruct((1, 24, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), init)

    def seen(height: int, width: int) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))
        return [str(warning.message) for warning in caught if 'resize_position_embedding' in str(warning.message)]

    assert seen(16, 32) == []
    assert len(seen(24, 24)) == 1
    assert seen(24, 24) == []


def ones_for(model) -> dict:
    """Variables of a model of `SMALL` images, made without compiling anything."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)


def test_wrong_layout_of_layers_names_what_mends_it():
    images = jnp.ones((1, 16, 16, 3))
    plain = ViT(**SMALL)
    scanned = plain.clone(scan=True)
    for model, other, name in ((scanned, plain, 'stack_layers'), (plain, scanned, 'unstack_layers')):
        variables = ones_for(other)
        with pytest.raises(ValueError, match=rf'vit_flax\.{name}\(model, variables\)'):
            jax.eval_shape(model.apply, variables, images)
    with pytest.raises(ValueError, match='missing: params/transformer/block_1/attention/norm/bias'):
        vit_flax.stack_layers(plain, ones_for(plain.clone(depth=1)))
    with pytest.raises(ValueError, match=r'expected \(1, 8\), got \(2, 8\)'):
        vit_flax.unstack_layers(plain.clone(depth=1), ones_for(scanned))


def test_a_table_of_a_model_can_be_read():
    """Each row is a call of a module, the first that of the model."""
    images = jnp.ones((1, 16, 16, 3), jnp.float32)
    table = ViT(**SMALL).tabulate(
        jax.random.key(0),
        images,
        console_kwargs=dict(width=200, force_terminal=False),
        column_kwargs=dict(no_wrap=True),
    )
    rows = [line.split('│')[1:4] for line in table.splitlines() if line.startswith('│')]
    path, module, inputs = (cell.strip() for cell in rows[0])
    assert (path, module, inputs) == ('', 'ViT', 'float32[1,16,16,3]')
    assert '(patch_embedding)' not in table and max(map(len, table.splitlines())) <= 200


def test_a_model_inside_of_another_module_under_explicit_axes():
    """Whatever calls it: the axes are automatic inside of ours, and explicit again outside."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(2, name='last')(ViT(**{**SMALL, 'depth': 1}, name='vit')(images))

    images = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))
    variables = jax.jit(Net().init)(jax.random.key(0), images)
    want = jax.jit(Net().apply)(variables, images)
    mesh = jax.make_mesh((4, 2), ('data', 'model'))
    with jax.set_mesh(mesh):
        spread = jax.device_put(images, jax.NamedSharding(mesh, jax.P('data')))
        got = jax.jit(Net().apply)(variables, spread)
        made = jax.jit(Net().init)(jax.random.key(0), spread)
    assert got.sharding.spec == jax.P('data', None)
    np.testing.assert_allclose(got, want, atol=1e-6)
    for mine, other in zip(jax.tree.leaves(made), jax.tree.leaves(variables), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)
