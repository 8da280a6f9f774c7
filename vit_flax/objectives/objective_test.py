"""The contract: what every objective offers, and the network that comes out of it and goes in again."""

import dataclasses
import importlib
import pkgutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax import objectives
from vit_flax.models.normalized_vit import nViT
from vit_flax.models.vit import ViT
from vit_flax.objectives.dino import Dino
from vit_flax.objectives.lejepa import LeJEPA
from vit_flax.objectives.mae import MAE
from vit_flax.objectives.objective import Objective, PostUpdate, encoder_variables, with_encoder
from vit_flax.objectives.teacher import teacher_variables

SMALL: Any = dict(image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, heads=2, mlp_dim=8)


def public_objectives() -> list[type[Objective]]:
    """All classes that are written in this folder."""
    files = [file.name for file in pkgutil.iter_modules(objectives.__path__) if not file.name.endswith('_test')]
    modules = [importlib.import_module(f'{objectives.__name__}.{file}') for file in files]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    return [kind for kind in found if issubclass(kind, Objective) and kind is not Objective]


def test_papers_set_arguments_that_there_are():
    kinds = public_objectives()
    assert len(kinds) > 12
    for kind in kinds:
        fields = {field.name for field in dataclasses.fields(kind)}
        assert kind.PAPER.keys() <= fields, kind
        assert kind.encoder_argument in fields or kind.__name__ == 'EncoderObjective'


def test_only_a_model_with_a_rule_of_its_own_has_one():
    assert isinstance(nViT(**{**SMALL, 'dim_head': 4}), PostUpdate)
    assert not isinstance(ViT(**SMALL), PostUpdate)


def test_by_default_nothing_follows_a_step_and_the_encoder_is_what_comes_out():
    mae = MAE(encoder=ViT(**SMALL), decoder_dim=4)
    variables: Any = {'params': {'encoder': {'a': 1}, 'decoder': {'b': 2}}, 'batch_stats': {'encoder': {'c': 3}}}
    assert mae.post_update(variables, decay=0.5) == variables
    network = MAE.network(variables)
    assert network == {'params': {'a': 1}, 'batch_stats': {'c': 3}}
    again = MAE.with_network(variables, {'params': {'a': 4}, 'batch_stats': {'c': 5}})
    assert again == {'params': {'encoder': {'a': 4}, 'decoder': {'b': 2}}, 'batch_stats': {'encoder': {'c': 5}}}
    assert with_encoder(variables, encoder_variables(variables)) == variables


@pytest.mark.parametrize('kind, name, student', [(Dino, 'teacher', 'student'), (LeJEPA, 'target', 'online')])
def test_a_network_and_its_moving_average_begin_alike(kind, name, student):
    settings: Any = {} if kind is Dino else {'use_ema': True}
    objective = kind(net=ViT(**SMALL), image_size=8, num_classes_K=4, projection_hidden_size=4, **settings)
    shapes = jax.eval_shape(objective.init, jax.random.key(0), *(jnp.zeros(x.shape) for x in objective.example_input()))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: draw.normal(size=x.shape), shapes)
    network, average = encoder_variables(variables), encoder_variables(teacher_variables(variables, name), 'net')
    assert kind.network(variables) == (average if kind is Dino else network)
    new = jax.tree.map(lambda x: x + 1, network)
    begun = kind.with_network(variables, new)
    assert encoder_variables(begun) == encoder_variables(teacher_variables(begun, name), 'net') == new
    assert begun['params'][student] is variables['params'][student]
    assert begun['teacher_params'][name]['projector'] is variables['teacher_params'][name]['projector']


def test_there_is_no_encoder():
    with pytest.raises(ValueError, match="the variables hold no 'encoder': their modules are mlp_head"):
        encoder_variables({'params': {'mlp_head': {}}})
