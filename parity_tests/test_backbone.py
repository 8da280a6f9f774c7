"""What each model declares of itself, against what it computes."""

import inspect
import math

import jax
import pytest
from flax.traverse_util import flatten_dict

from parity_tests.bridge import example_inputs
from parity_tests.case import Case
from parity_tests.specimen import specimen
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.module import example_inputs as module_inputs

# the models of actions have other stages
STAGES = ('embed', 'encode', 'classify')


def variable_shapes(model, case: Case):
    """Those of another model than the case's."""
    options = {**case.call, **case.options}
    return jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x, **options), *example_inputs(case))


def result_shapes(model, case: Case, variables):
    """Of a model's output and taps."""
    run = lambda variables, *x: model.apply(variables, *x, mutable=['intermediates'], **case.call, **case.options)  # noqa: E731
    output, state = jax.eval_shape(run, variables, *example_inputs(case))
    return output, state.get('intermediates', {})


@pytest.fixture
def model(first_case: Case) -> Backbone:
    model = first_case.flax_model()
    assert isinstance(model, Backbone)
    return model


def has_classes(model: Backbone) -> bool:
    return bool(getattr(model, 'num_classes', None))


def test_head(representative_case: Case):
    """The parameters whose shapes change with the number of classes are those of the declared head."""
    model = representative_case.flax_model()
    if not has_classes(model):
        assert model.head == ()
        return
    more = variable_shapes(model.clone(num_classes=model.num_classes + 1), representative_case)
    ours, theirs = (
        flatten_dict(variables['params'], sep='/') for variables in (specimen(representative_case).pair.variables, more)
    )
    changed = {path for path in ours if ours[path].shape != theirs[path].shape}
    assert changed == {path for path in ours if any(f'{path}/'.startswith(f'{part}/') for part in model.head)}


def test_token_grids(representative_case: Case):
    """Attention maps, or what blocks put out, have each of the declared grids."""
    model = representative_case.flax_model()
    example = module_inputs(model)[0]
    if representative_case.listed is None:
        assert example.ndim == len(model.layout.split())
        example = example_inputs(representative_case)[0]
    _, taps = result_shapes(model, representative_case, specimen(representative_case).pair.variables)
    found = set()
    for path, values in flatten_dict(taps, sep='/').items():
        for value in jax.tree.leaves(values):
            kind = path.rpartition('/')[2]
            if kind == 'attention':
                found.add(value.shape[-1])
            elif kind.startswith(('block', 'embedding')):
                found |= {value.shape[1], math.prod(value.shape[1:-1])}
    for grid in model.token_grids(example.shape[1:-1]):
        assert grid.num_tokens in found, (grid, found)


def test_stages(model: Backbone):
    """`train` is the second argument of every stage, False by default."""
    for name in STAGES:
        stage = getattr(type(model), name, None)
        if stage is not None:
            parameters = list(inspect.signature(stage).parameters.values())
            assert parameters[2].name == 'train' and parameters[2].default is False, name


def test_no_classes(representative_case: Case):
    """Without classes the forward pass ends before `classify`, or with what it pools, and there is no head."""
    model = representative_case.flax_model()
    if not has_classes(model):
        pytest.skip('it has no classes')
    if not hasattr(model, 'encode'):
        pytest.skip('its stages are loops')
    case = representative_case
    without = model.clone(num_classes=0)
    variables = variable_shapes(without, case)
    output, _ = result_shapes(without, case, variables)
    names = flatten_dict(variables['params'], sep='/')
    assert not [path for path in names if any(f'{path}/'.startswith(f'{part}/') for part in model.head)]
    want = jax.eval_shape(
        lambda variables, *x: model.apply(variables, *x, method=lambda m, *x: m.encode(m.embed(*x))),
        specimen(case).pair.variables,
        *example_inputs(case),
    )
    # a loss may follow
    got, expected = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (output, want))
    if model.pools_without_classes:
        expected = [(shape[0], shape[-1]) for shape in expected]
    assert got[: len(expected)] == expected
