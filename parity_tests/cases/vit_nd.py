from parity_tests.case import Case, Input, Refused
from parity_tests.upstream import dense_attention

WIDTHS = dict(num_classes=7, dim=20, depth=1, heads=3, dim_head=6, mlp_dim=28)
SMALL = dict(**WIDTHS, ndim=3, input_shape=(4, 9, 10), patch_size=(2, 3, 5))
INPUT = (Input((2, 4, 9, 10, 3), 'b f g h c'),)
DENSE = dict(upstream_patch=dense_attention)

CASES = [
    Case(name='three_axes', kwargs={**SMALL, 'depth': 2}, inputs=INPUT, parameters=7_743, **DENSE),
    Case(
        name='three_axes_two_causal_mean',
        kwargs={**SMALL, 'causal_dims': (0, 2), 'pool': 'mean'},
        inputs=INPUT,
        parameters=5_035,
        train=True,
        **DENSE,
    ),
    Case(
        name='patches',
        kwargs={**SMALL, 'causal_dims': 1},
        inputs=INPUT,
        parameters=5_035,
        options={'return_nd_patches': True},
        unused=('mlp_head/.*',),
        **DENSE,
    ),
    Case(
        name='one_axis_causal',
        kwargs={**SMALL, 'ndim': 1, 'input_shape': 21, 'patch_size': 3, 'channels': 1, 'causal_dims': 0},
        inputs=(Input((2, 21, 1), 'b f c'),),
        parameters=3_195,
        **DENSE,
    ),
    Case(
        name='two_axes_no_output_projection',
        kwargs={**SMALL, 'ndim': 2, 'input_shape': (8, 18), 'patch_size': (4, 6), 'heads': 1, 'dim_head': 20},
        inputs=(Input((2, 8, 18, 3), 'b f g c'),),
        parameters=4_295,
        **DENSE,
    ),
    Case(
        name='four_axes_causal_in_time',
        kwargs={**SMALL, 'ndim': 4, 'input_shape': (3, 4, 2, 6), 'patch_size': (1, 2, 2, 3), 'causal_dims': (0,)},
        inputs=(Input((2, 3, 4, 2, 6, 3), 'b f g h i c'),),
        parameters=3_955,
        **DENSE,
    ),
]

REFUSED_BY_ALL = [
    Refused(
        says=r'input_shape=\(4, 9, 11\) is not divisible by patch_size=\(2, 3, 5\).*\(4, 9, 10\) and \(4, 9, 15\)',
        kwargs={**SMALL, 'input_shape': (4, 9, 11)},
        inputs=INPUT,
    ),
    Refused(says='ndim=8 must be between 1 and 7', kwargs={**SMALL, 'ndim': 8}, inputs=INPUT),
    Refused(
        says=r'patch_size=\(2, 3\) must be one number or 3, for ndim=3',
        kwargs={**SMALL, 'patch_size': (2, 3)},
        inputs=INPUT,
    ),
    Refused(says=r'causal_dims=\(3,\) must be axes between 0 and 2', kwargs={**SMALL, 'causal_dims': 3}, inputs=INPUT),
    Refused(
        says=r'layout \[b f g h c\], got shape \(2, 9, 10, 3\)',
        kwargs=SMALL,
        inputs=(Input((2, 9, 10, 3), 'b g h c'),),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 3, 4, 9, 10\)',
        kwargs=SMALL,
        inputs=(Input((2, 3, 4, 9, 10), 'b f g h c'),),
    ),
]

REFUSED = [
    *REFUSED_BY_ALL,
    Refused(says=r"pool='max' is unknown: use one of 'cls', 'mean'", kwargs={**SMALL, 'pool': 'max'}, inputs=INPUT),
    Refused(
        says=r'input of shape \(2, 4, 6, 10, 3\) must be of input_shape=\(4, 9, 10\)',
        kwargs=SMALL,
        inputs=(Input((2, 4, 6, 10, 3), 'b f g h c'),),
    ),
]
