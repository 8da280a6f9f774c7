"""The head is found by its shape, whatever it is called."""

import pytest

from train.heads import head_modules, head_parameters
from vit_flax import create_model

SMALL = dict(image_size=16, patch_size=8, channels=1, num_classes=10, dim=8, depth=1, heads=2, mlp_dim=8)


@pytest.mark.parametrize(
    'name, options, modules, parameters',
    [
        ('vit', SMALL, ['mlp_head'], ['bias', 'kernel']),
        ('deepvit', SMALL, ['mlp_head/linear'], ['bias', 'kernel']),
        ('normalized_vit', SMALL, ['to_pred'], ['kernel']),
    ],
)
def test_what_grows_with_the_classes(name, options, modules, parameters):
    model = create_model(name, **options)
    assert head_modules(model, (16, 16, 1)) == modules
    found = head_parameters(model, (16, 16, 1))
    assert {path for path in found if '/' in path} == {f'{modules[0]}/{name}' for name in parameters}
