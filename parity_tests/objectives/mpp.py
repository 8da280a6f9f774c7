import numpy as np
import torch

from parity_tests.case import Refused, Submodule, image
from parity_tests.masked_images import DEEPVIT, SMALL, VIT, split
from parity_tests.objective_case import ObjectiveCase
from parity_tests.upstream import TorchWith

OBJECTIVE = 'MPP'
SIZES = dict(patch_size=(4, 9), dim=20)
# upstream's takes square patches alone
SQUARE = {**SMALL, 'patch_size': 6}
SQUARE_SIZES = dict(patch_size=6, dim=20)


def pixels(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Patches of all colours; some pixels are below 0 and above 1."""
    b, h, w, c = shape
    colours = rng.uniform(size=(b, 6, 4, c)).repeat(h // 6, axis=1).repeat(w // 4, axis=2)
    return colours + 0.1 * rng.normal(size=shape)


def corruption(patches: int, masked: int, replaced: float = 0.5, randomised: float = 1.0):
    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return dict(
            masked=split(rng, patches, masked)['masked'],
            replaced=rng.uniform(size=(2, patches)) < replaced,
            randomised=rng.uniform(size=(2, patches)) < randomised,
            sources=rng.integers(patches, size=(2, patches)),
        )

    return draw


def draw_these(module, call):
    """Upstream draws which patches are asked for, which of them become others, which these are, which are replaced."""
    asked = torch.zeros(call['replaced'].shape, dtype=torch.bool).scatter(1, call['masked'], True)
    coins = iter([call['randomised'], call['replaced']])

    def arange(*args, **kwargs):
        floats = any(isinstance(number, float) for number in args)
        return torch.arange(*args, **kwargs, **({'dtype': torch.float64} if floats else {}))

    return {
        'get_mask_subset_with_prob': lambda *_: asked,
        'prob_mask_like': lambda *_: next(coins),
        'torch': TorchWith(randint=lambda *args, **kwargs: call['sources'], arange=arange),
    }


def batch_axes(model: torch.nn.Module) -> None:
    """Upstream's MPP takes a class token and positions with a batch axis, which its ViT no longer has."""
    for name in ('cls_token', 'pos_embedding'):
        value = getattr(model.transformer, name).detach()
        setattr(model.transformer, name, torch.nn.Parameter(value[None]))


CASES = [
    ObjectiveCase(
        name='vit',
        kwargs=dict(transformer=Submodule('models.vit', 'ViT', SQUARE), **SQUARE_SIZES),
        inputs=image(2, 24, 36, 3),
        values=pixels,
        draw=corruption(24, 4),
        parameters=19_419,
        unused=('encoder/mlp_head/.*',),
        encoder='transformer',
        upstream_patch=draw_these,
        upstream_fails=RuntimeError,
        upstream_mend=batch_axes,
    ),
    ObjectiveCase(
        name='deepvit_normalised_images',
        kwargs=dict(
            transformer=DEEPVIT,
            patch_size=6,
            dim=20,
            output_channel_bits=2,
            max_pixel_val=2.0,
            mask_prob=0.4,
            mean=(0.4, 0.5, 0.6),
            std=(0.3, 0.4, 0.5),
        ),
        inputs=image(2, 24, 24, 3),
        values=lambda rng, shape: pixels(rng, shape).transpose(0, 2, 1, 3) - 0.5,
        draw=corruption(16, 7, randomised=0.6),
        parameters=7_158,
        unused=('encoder/mlp_head/.*',),
        encoder='transformer',
        optimizer='sgd',
        upstream_patch=draw_these,
    ),
    ObjectiveCase(
        name='simple_vit',
        kwargs=dict(transformer=Submodule('models.simple_vit', 'SimpleViT', SQUARE), **SQUARE_SIZES),
        inputs=image(2, 24, 36, 3),
        values=pixels,
        draw=corruption(24, 4),
        parameters=18_859,
        unused=('encoder/linear_head/.*',),
        encoder='transformer',
        upstream_fails=AttributeError,
    ),
    ObjectiveCase(
        name='learned_token',
        kwargs=dict(transformer=VIT, **SIZES, mask_embedding=True, mask_prob=0.5),
        inputs=image(2, 24, 36, 3),
        values=pixels,
        draw=corruption(24, 12, replaced=0.8, randomised=0.5),
        parameters=19_331,
        unused=('encoder/mlp_head/.*',),
        encoder='transformer',
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'output_channel_bits=9 with channels=3 makes 2\*\*27 colours: they must be at most 2\*\*24',
        kwargs=dict(transformer=VIT, patch_size=(4, 9), dim=20, output_channel_bits=9),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'patch_size=\(4, 4\) must be \(4, 9\), as the encoder has it',
        kwargs=dict(transformer=VIT, patch_size=4, dim=20),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says='dim=24 must be 20', kwargs=dict(transformer=VIT, patch_size=(4, 9), dim=24), inputs=image(2, 24, 36, 3)
    ),
    Refused(
        says='mask_prob=0.0 must be above 0 and at most 1',
        kwargs=dict(transformer=VIT, **SIZES, mask_prob=0.0),
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says='replace_prob=1.5 must be between 0 and 1',
        kwargs=dict(transformer=VIT, **SIZES, replace_prob=1.5),
        inputs=image(2, 24, 36, 3),
    ),
]
