import numpy as np
import torch

from parity_tests.case import Case, Refused, video
from parity_tests.upstream import TorchWith, ranks

SMALL = dict(image_size=(6, 10), patch_size=(3, 5), frames=3, dim=20, depth=1, heads=3, dim_head=8, mlp_dim=28)
VIDEO = video(2, 3, 6, 10, 3)
KEPT = np.array([[3, 0, 7, 11, 5, 8, 2], [1, 9, 4, 10, 0, 6, 3]])


def as_arrays(module, call):
    """Upstream's own rule as a mask, and its own draw: flex attention has no backward pass on a CPU."""

    def mask(rule, batch, heads, seq_len, device):
        rows, places = torch.arange(batch), torch.arange(seq_len)
        return rule(rows[:, None, None], 0, places[:, None], places)

    def attention(q, k, v, block_mask, scale):
        scores = q @ k.mT * scale
        if block_mask is not None:
            scores = scores.masked_fill(~block_mask[:, None], -torch.inf)
        return scores.softmax(dim=-1) @ v

    return {
        'create_block_mask_for': mask,
        'flex_attention': attention,
        'torch': TorchWith(compile=lambda rule: rule, rand=lambda *size, device: drawn(call, *size)),
    }


def drawn(call, batch, tokens):
    """Numbers whose largest are those of the kept patches, in their order."""
    kept = call['kept_patches']
    rest = [[i for i in range(tokens) if i not in row] for row in kept.tolist()]
    return 1 - ranks(torch.cat([kept, torch.tensor(rest)], dim=1))


UPSTREAM = dict(
    upstream_patch=as_arrays,
    upstream_tolerance=1e-6,
    upstream_reason='upstream divides the places by the lengths of the axes in float32',
)

CASES = [
    Case(name='causal', kwargs={**SMALL, 'depth': 2}, inputs=VIDEO, parameters=7_281, **UPSTREAM),
    Case(name='free', kwargs={**SMALL, 'block_causal': False}, inputs=VIDEO, parameters=4_153, **UPSTREAM),
    Case(
        name='another_shape_grey',
        kwargs={**SMALL, 'channels': 1, 'dim_head': 14, 'rotary_max_freq': 7.0},
        inputs=video(2, 5, 9, 5, 1),
        parameters=4_963,
        **UPSTREAM,
    ),
    Case(
        name='patches_left_out',
        kwargs=SMALL,
        inputs=VIDEO,
        parameters=4_153,
        call={'kept_patches': KEPT},
        options={'drop_ratio': 0.4},
        train=True,
        **UPSTREAM,
    ),
]

REFUSED = [
    Refused(
        says=r'image_size=\(6, 11\) is not divisible by patch_size=\(3, 5\)',
        kwargs={**SMALL, 'image_size': (6, 11)},
        inputs=VIDEO,
    ),
    Refused(
        says=r'height and width of the videos=\(3, 6, 11\) is not divisible by patch_size=\(1, 3, 5\)',
        kwargs=SMALL,
        inputs=video(2, 3, 6, 11, 3),
    ),
    Refused(says=r'expected input of layout \[b t h w c\]', kwargs=SMALL, inputs=video(3, 6, 10, 3)),
    Refused(says='dim_head=4 must be at least 6', kwargs={**SMALL, 'dim_head': 4}, inputs=VIDEO),
    Refused(
        says=r'drop_ratio=1.0 must be at least 0 and below 1', kwargs=SMALL, inputs=VIDEO, call={'drop_ratio': 1.0}
    ),
]
