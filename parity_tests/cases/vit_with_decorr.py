import numpy as np

from parity_tests.case import Case, Input, Refused, image

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
SUBSPACES = dict(decorr_use_subspace=True, decorr_dim_subspace=9, decorr_num_subspaces=2)
RNG = np.random.default_rng(0)
# of 4 branches, 2 images and 25 tokens, 7 each
SAMPLED = dict(sampled_tokens=RNG.permuted(np.broadcast_to(np.arange(25), (4, 2, 25)), axis=-1)[..., :7])


def look_at_these(module, call):
    """Upstream draws the tokens itself."""

    class DecorrelationLoss(module.DecorrelationLoss):
        def forward(self, tokens):
            indices = call['sampled_tokens'][..., None].expand(-1, -1, -1, tokens.shape[-1])
            self.need_sample = False
            return super().forward(tokens.gather(-2, indices))

    return {'DecorrelationLoss': DecorrelationLoss}


CASES = [
    Case(name='eval', kwargs={**SMALL, **SUBSPACES}, inputs=image(2, 24, 36, 3), parameters=8_559),
    Case(name='train', kwargs={**SMALL, 'pool': 'mean'}, inputs=image(2, 20, 27, 3), parameters=8_559, train=True),
    Case(
        name='subspaces_sampled',
        kwargs={**SMALL, **SUBSPACES, 'decorr_sample_frac': 0.3, 'decorr_mean_center': True, 'channels': 1},
        inputs=image(2, 24, 36, 1),
        parameters=6_975,
        call=SAMPLED,
        options=dict(return_decorr_aux_loss=True),
        upstream_patch=look_at_these,
    ),
    Case(
        name='across_depth',
        kwargs={**SMALL, 'decorr_layer_outputs_across_depth': True, 'decorr_sample_frac': 0.1},
        inputs=image(2, 20, 27, 3),
        parameters=8_559,
        train=True,
    ),
    Case(
        name='off',
        kwargs={**SMALL, 'decorr_sample_frac': 0.0, 'depth': 1, 'heads': 1, 'dim_head': 20},
        inputs=image(2, 20, 27, 3),
        parameters=5_591,
        train=True,
    ),
    Case(
        name='loss_alone',
        model='DecorrelationLoss',
        kwargs=dict(use_subspace=True, dim=20, dim_subspace=6, num_subspaces=3),
        inputs=(Input((3, 2, 11, 20), 'l b n d'),),
        parameters=0,
    ),
    Case(
        name='loss_of_one_layer',
        model='DecorrelationLoss',
        kwargs=dict(mean_center=True),
        inputs=(Input((2, 11, 20), 'b n d'),),
        parameters=0,
    ),
]

REFUSED = [
    Refused(
        says=r'sample_frac=0.05 of 25 tokens is 1: it must be at least 2',
        kwargs={**SMALL, 'decorr_sample_frac': 0.05},
        inputs=image(2, 24, 36, 3),
        call=dict(return_decorr_aux_loss=True),
    ),
    Refused(
        says=r'dim=20 must be above dim_subspace=64',
        kwargs={**SMALL, 'decorr_use_subspace': True},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'sample_frac=1.5 must be between 0 and 1',
        kwargs={**SMALL, 'decorr_sample_frac': 1.5},
        inputs=image(2, 24, 36, 3),
    ),
]
