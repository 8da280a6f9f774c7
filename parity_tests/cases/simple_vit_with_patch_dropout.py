import numpy as np
import torch

from parity_tests.case import Case, Refused, image
from parity_tests.cases.simple_vit import FLOAT32_TABLE, SMALL
from parity_tests.upstream import tables_in_float64

KEPT = dict(kept_patches=np.array([[7, 2, 11, 9, 0], [3, 20, 1, 8, 23]]))


def keep_these(module, call):
    """Upstream draws the surviving patches itself."""

    class PatchDropout(torch.nn.Module):
        def __init__(self, prob):
            super().__init__()

        def forward(self, x):
            return torch.stack([tokens[kept] for tokens, kept in zip(x, call['kept_patches'], strict=True)])

    return {'PatchDropout': PatchDropout}


def keep_these_in_float64(module, call):
    return keep_these(module, call) | tables_in_float64(module, call)


CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=7_999, **FLOAT32_TABLE),
    Case(
        name='dropped',
        kwargs={**SMALL, 'patch_dropout': 0.75},
        inputs=image(2, 24, 36, 3),
        parameters=7_999,
        train=True,
        call=KEPT,
        upstream_patch=keep_these_in_float64,
    ),
]

REFUSED = [
    Refused(
        says=r'patch_dropout=1.0 must be at least 0 and below 1',
        kwargs={**SMALL, 'patch_dropout': 1.0},
        inputs=image(2, 24, 36, 3),
    ),
]
