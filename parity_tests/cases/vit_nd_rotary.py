from parity_tests.case import Case, Input, Refused
from parity_tests.cases.vit_nd import INPUT, REFUSED_BY_ALL, SMALL
from parity_tests.upstream import dense_attention

ROUNDED = dict(
    upstream_patch=dense_attention,
    upstream_tolerance=1e-6,
    upstream_reason='upstream rounds queries and keys to float32 before it turns them',
)

CASES = [
    Case(name='three_axes', kwargs={**SMALL, 'depth': 2}, inputs=INPUT, parameters=7_463, **ROUNDED),
    Case(
        name='embedding_of_another_shape',
        kwargs={**SMALL, 'rope_p_zero_freqs': 0.4, 'rope_min_freq': 0.5, 'rope_max_freq': 3.0, 'dropout': 0.0},
        inputs=(Input((2, 6, 3, 10, 3), 'b f g h c'),),
        parameters=4_755,
        options={'return_embed': True},
        feature_maps=False,
        unused=('mlp_head/.*',),
        **ROUNDED,
    ),
    Case(
        name='one_axis_causal',
        kwargs={**SMALL, 'ndim': 1, 'input_shape': 21, 'patch_size': 3, 'channels': 1, 'causal_dims': 0},
        inputs=(Input((2, 21, 1), 'b f c'),),
        parameters=3_015,
        train=True,
        **ROUNDED,
    ),
    Case(
        name='two_axes_no_output_projection',
        kwargs={**SMALL, 'ndim': 2, 'input_shape': (8, 18), 'patch_size': (4, 6), 'heads': 1, 'dim_head': 20},
        inputs=(Input((2, 8, 18, 3), 'b f g c'),),
        parameters=4_135,
        **ROUNDED,
    ),
    Case(
        name='four_axes_two_causal',
        kwargs={**SMALL, 'ndim': 4, 'input_shape': (3, 4, 2, 6), 'patch_size': (1, 2, 2, 3), 'causal_dims': (0, 3)},
        inputs=(Input((2, 3, 4, 2, 6, 3), 'b f g h i c'),),
        parameters=3_675,
        **ROUNDED,
    ),
]

REFUSED = [
    *REFUSED_BY_ALL,
    Refused(says='dim_head=5 is not divisible by', kwargs={**SMALL, 'dim_head': 5}, inputs=INPUT),
    Refused(
        says=r'input of shape \(2, 4, 6, 10, 3\) must be of input_shape=\(4, 9, 10\): causal_dims',
        kwargs={**SMALL, 'causal_dims': 0},
        inputs=(Input((2, 4, 6, 10, 3), 'b f g h c'),),
    ),
]
