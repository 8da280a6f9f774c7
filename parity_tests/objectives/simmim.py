import torch

from parity_tests.case import Refused, image, video
from parity_tests.masked_images import (
    DEEPVIT,
    SIMPLE_VIT,
    VIT,
    VIT_3D,
    VIT_MEAN,
    positions_in_float64,
    positions_with_batch_axis,
    split,
    tubes,
)
from parity_tests.objective_case import ObjectiveCase
from parity_tests.upstream import TorchWith, ranks

OBJECTIVE = 'SimMIM'


def draw_these(module, call):
    """Upstream draws uniform numbers and hides where they are largest."""
    masked = call['masked']
    drawn = torch.zeros(len(masked), 1000, dtype=torch.float64).scatter_(1, masked, 2 - ranks(masked).double())

    def rand(batch, patches, device):
        return drawn[:, :patches]

    return {'torch': TorchWith(rand=rand)}


def masked(patches: int, count: int):
    return lambda rng: {'masked': split(rng, patches, count)['masked']}


def a_row_for_no_token(model: torch.nn.Module) -> None:
    """Upstream takes the encoder's positions from the second on, behind a batch axis."""
    table = model.encoder.pos_embedding
    model.encoder.pos_embedding = torch.cat([torch.zeros_like(table[:1]), table])[None]


CASES = [
    ObjectiveCase(
        name='vit',
        kwargs=dict(encoder=VIT),
        inputs=image(2, 24, 36, 3),
        draw=masked(24, 12),
        parameters=10_847,
        unused=('encoder/(cls_token|mlp_head/.*)',),
        upstream_patch=draw_these,
        upstream_fails=RuntimeError,
        upstream_mend=positions_with_batch_axis,
    ),
    ObjectiveCase(
        name='vit_mean',
        kwargs=dict(encoder=VIT_MEAN, masking_ratio=0.4),
        inputs=image(2, 24, 36, 3),
        draw=masked(24, 9),
        parameters=8_099,
        unused=('encoder/mlp_head/.*',),
        optimizer='sgd',
        upstream_fails=RuntimeError,
    ),
    ObjectiveCase(
        name='simple_vit',
        kwargs=dict(encoder=SIMPLE_VIT),
        inputs=image(2, 24, 36, 3),
        draw=masked(24, 12),
        parameters=10_287,
        unused=('encoder/linear_head/.*',),
        upstream_patch=draw_these,
        upstream_fails=RuntimeError,
        upstream_prepare=positions_in_float64,
        upstream_mend=a_row_for_no_token,
    ),
    ObjectiveCase(
        name='deepvit',
        kwargs=dict(encoder=DEEPVIT),
        inputs=image(2, 24, 24, 3),
        draw=masked(16, 8),
        parameters=7_994,
        unused=('encoder/(cls_token|mlp_head/.*)',),
        upstream_patch=draw_these,
    ),
    ObjectiveCase(
        name='vit_3d_tubes',
        # 7 of 15 places at 3 steps are 21 of 45 patches
        kwargs=dict(encoder=VIT_3D, masking_ratio=0.47),
        inputs=video(2, 6, 9, 20, 3),
        draw=lambda rng: {'masked': tubes(rng, 3, 15, 7)['masked']},
        parameters=7_011,
        unused=('encoder/(cls_token|mlp_head/.*)',),
        upstream_patch=draw_these,
    ),
    ObjectiveCase(
        name='mean_loss_class_token',
        kwargs=dict(encoder=VIT, mean_loss=True, class_token=True),
        inputs=image(2, 24, 36, 3),
        draw=masked(24, 12),
        parameters=10_847,
        unused=('encoder/mlp_head/.*',),
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'masking_ratio=0 must be between 0 and 1',
        kwargs=dict(encoder=VIT, masking_ratio=0),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'mask_patch_size=32 must be made of whole patches of \(4, 9\)',
        kwargs=dict(encoder=VIT, mask_patch_size=32),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'blocks of \(4, 1\) patches do not tile a grid of \(6, 4\) patches',
        kwargs=dict(encoder=VIT, mask_patch_size=(16, 9)),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r"masking='block' must be one of 'random', 'tube'",
        kwargs=dict(encoder=VIT, masking='block'),
        inputs=image(2, 24, 36, 3),
    ),
]
