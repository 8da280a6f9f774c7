import torch

from parity_tests.case import Refused, Submodule, image
from parity_tests.masked_images import SMALL, VIT, split
from parity_tests.objective_case import ObjectiveCase
from parity_tests.upstream import TorchWith, ranks

OBJECTIVE = 'MP3'
MP3_VIT = Submodule('models.mp3', 'ViT', SMALL)


def draw_these(module, call):
    """Upstream sorts uniform numbers, and hides those that come first."""
    visible = call['visible']
    hidden = [[place for place in range(24) if place not in row] for row in visible.tolist()]
    order = torch.cat([torch.tensor(hidden), visible], dim=1)
    return {'torch': TorchWith(rand=lambda *size, **kwargs: ranks(order))}


CASES = [
    ObjectiveCase(
        name='three_quarters',
        kwargs=dict(vit=MP3_VIT, masking_ratio=0.75),
        inputs=image(2, 24, 36, 3),
        draw=lambda rng: {'visible': split(rng, 24, 18)['visible']},
        parameters=8_583,
        unused=('encoder/linear_head/.*',),
        encoder='vit',
        upstream_patch=draw_these,
    ),
    ObjectiveCase(
        name='half_grey',
        kwargs=dict(
            vit=Submodule('models.mp3', 'ViT', {**SMALL, 'channels': 1, 'depth': 1, 'patch_size': 6}),
            masking_ratio=0.5,
        ),
        inputs=image(2, 24, 36, 1),
        draw=lambda rng: {'visible': split(rng, 24, 12)['visible']},
        parameters=4_291,
        unused=('encoder/linear_head/.*',),
        encoder='vit',
        optimizer='sgd',
        upstream_patch=draw_these,
    ),
]

REFUSED = [
    Refused(
        says='masking_ratio=1 must be between 0 and 1',
        kwargs=dict(vit=MP3_VIT, masking_ratio=1),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says='vit=ViT cannot attend to other tokens than its own: take models.mp3.ViT',
        kwargs=dict(vit=VIT, masking_ratio=0.75),
        inputs=image(2, 24, 36, 3),
    ),
]
