import numpy as np
import torch

from parity_tests.case import Case, Input, Refused, image

SMALL = dict(image_size=(24, 36), patch_size=4, num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
SHALLOW = {**SMALL, 'depth': 1}


def images(*shapes: tuple[int, ...]) -> tuple[Input, ...]:
    """Images of these shapes, `[h w c]` each."""
    return tuple(Input(shape, 'h w c') for shape in shapes)


MIXED = images((24, 12, 3), (8, 36, 3), (4, 8, 3), (20, 16, 3))


def more_dropped_of_large_ones(*lengths):
    return 0.75 if np.prod(lengths) > 300 else 0.3


class Torch:
    """`torch`, whose `randn` of a sequence picks these tokens in this order."""

    def __init__(self, kept_tokens):
        self.kept_tokens = iter(kept_tokens)

    def __getattr__(self, name):
        return getattr(torch, name)

    def randn(self, *shape, **kwargs):
        if not isinstance(shape[0], tuple):
            return torch.randn(*shape, **kwargs)
        ranks = torch.zeros(*shape)
        kept = next(self.kept_tokens)
        ranks[kept] = torch.arange(len(kept), 0.0, -1.0)
        return ranks


def keep_these(module, call):
    """Upstream draws the surviving tokens itself, by the largest of normal numbers."""
    return {'torch': Torch(call['kept_tokens'])}


rng = np.random.default_rng(0)


def kept(*counts: tuple[int, int]) -> dict:
    """For images of so many tokens, so many that stay."""
    return {'kept_tokens': tuple(rng.permutation(tokens)[:stay] for tokens, stay in counts)}


CASES = [
    Case(name='one_size', kwargs=SMALL, inputs=image(2, 16, 36, 3), parameters=8_412),
    Case(name='rows', kwargs=SMALL, inputs=MIXED, listed=[[0, 1], [2], [3]], parameters=8_412),
    Case(name='one_row', kwargs=SHALLOW, inputs=MIXED, listed=[0, 1, 2, 3], parameters=5_728, train=True),
    Case(
        name='grouped',
        kwargs=SHALLOW,
        inputs=MIXED,
        listed=[0, 1, 2, 3],
        options=dict(group_images=True, group_max_seq_len=21),
        parameters=5_728,
    ),
    Case(
        name='dropped',
        kwargs={**SHALLOW, 'token_dropout_prob': 0.4},
        inputs=image(2, 16, 36, 3),
        parameters=5_728,
        train=True,
        call={'kept_tokens': np.stack(kept((36, 21), (36, 21))['kept_tokens'])},
        upstream_patch=keep_these,
    ),
    Case(
        name='dropped_by_size_grouped',
        kwargs={**SHALLOW, 'token_dropout_prob': more_dropped_of_large_ones},
        inputs=MIXED,
        listed=[0, 1, 2, 3],
        options=dict(group_images=True, group_max_seq_len=18),
        parameters=5_728,
        train=True,
        call=kept((18, 12), (18, 12), (2, 1), (20, 5)),
        upstream_patch=keep_these,
    ),
    Case(
        name='rectangular_grey',
        kwargs={**SHALLOW, 'patch_size': (4, 9), 'channels': 1},
        inputs=images((24, 9, 1), (8, 36, 1)),
        listed=[[0], [1]],
        parameters=5_376,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(24, 38\) is not divisible by patch_size=\(4, 4\)',
        kwargs={**SMALL, 'image_size': (24, 38)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'token_dropout_prob=1.0 must be at least 0 and below 1',
        kwargs={**SMALL, 'token_dropout_prob': 1.0},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'have 7 patches along their height, image_size=\(24, 36\) has positions for 6',
        kwargs=SMALL,
        inputs=image(2, 28, 36, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 3, 24, 36\).*unlike in PyTorch',
        kwargs=SMALL,
        inputs=image(2, 3, 24, 36),
    ),
    Refused(
        says=r'patches need positions, image_ids and slots, all from pack_images, and no kept_tokens',
        kwargs=SMALL,
        inputs=(Input((2, 8, 48), 'b n d'),),
        call=dict(positions=np.zeros((2, 8, 2), np.int32)),
    ),
]
