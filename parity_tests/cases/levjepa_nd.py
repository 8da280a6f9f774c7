from dataclasses import replace

from parity_tests.case import Case, Input, Refused
from parity_tests.cases.levjepa import KEPT, drawn
from parity_tests.cases.vit_nd import INPUT, REFUSED_BY_ALL
from parity_tests.upstream import TorchWith

WIDTHS = dict(dim=20, depth=1, heads=3, dim_head=8, mlp_dim=28)
SMALL = dict(**WIDTHS, ndim=3, input_shape=(4, 9, 10), patch_size=(2, 3, 5))


def dense(module, call):
    """Upstream's own mask as an array, and its own draw."""
    return {
        'flex_attention_supported': lambda device: False,
        'torch': TorchWith(rand=lambda *size, device: drawn(call, *size)),
    }


UPSTREAM = dict(
    upstream_patch=dense,
    upstream_tolerance=1e-6,
    upstream_reason='upstream divides the places by the lengths of the axes in float32',
)

CASES = [
    Case(name='three_axes', kwargs={**SMALL, 'depth': 2}, inputs=INPUT, parameters=8_226, **UPSTREAM),
    Case(
        name='one_axis_not_causal',
        kwargs={**SMALL, 'ndim': 1, 'input_shape': 21, 'patch_size': 3, 'channels': 1, 'causal_dims': ()},
        inputs=(Input((2, 21, 1), 'b f c'),),
        parameters=3_271,
        **UPSTREAM,
    ),
    Case(
        name='two_axes_one_number',
        kwargs={**SMALL, 'ndim': 2, 'input_shape': (8, 18), 'patch_size': (4, 6), 'causal_dims': 1},
        inputs=(Input((2, 8, 18, 3), 'b f g c'),),
        parameters=4_720,
        **UPSTREAM,
    ),
    Case(
        name='four_axes_two_causal',
        kwargs={**SMALL, 'ndim': 4, 'input_shape': (3, 4, 2, 6), 'patch_size': (1, 2, 2, 3), 'causal_dims': (0, 3)},
        inputs=(Input((2, 3, 4, 2, 6, 3), 'b f g h i c'),),
        parameters=3_964,
        **UPSTREAM,
    ),
    Case(
        name='patches_left_out',
        kwargs=SMALL,
        inputs=INPUT,
        parameters=5_098,
        call={'kept_patches': KEPT},
        options={'drop_ratio': 0.4},
        train=True,
        **UPSTREAM,
    ),
]

REFUSED = [
    *(replace(one, kwargs={k: v for k, v in one.kwargs.items() if k != 'num_classes'}) for one in REFUSED_BY_ALL),
    Refused(
        says=r'causal_dims=\(0, 3\) must be axes between 0 and 2', kwargs={**SMALL, 'causal_dims': (0, 3)}, inputs=INPUT
    ),
    Refused(
        says=r'input of shape \(2, 4, 6, 10, 3\) must be of input_shape=\(4, 9, 10\)',
        kwargs=SMALL,
        inputs=(Input((2, 4, 6, 10, 3), 'b f g h c'),),
    ),
]
