from parity_tests.case import Case, Refused, video
from parity_tests.cases.cct import KEEP, TOKENS

# upstream fixes the dropout of the attention maps at 0.1, which only training sees
SMALL = dict(
    **{name: value for name, value in TOKENS.items() if name != 'attention_dropout'},
    img_size=(10, 14),
    num_frames=4,
    kernel_size=5,
    stride=1,
    padding=2,
)

CASES = [
    Case(name='learned_positions', kwargs=SMALL, inputs=video(2, 4, 10, 14, 3), parameters=13_967),
    Case(
        name='dropped_paths',
        kwargs={**SMALL, 'attention_dropout': 0.0, 'stochastic_depth_rate': 0.5},
        inputs=video(2, 4, 10, 14, 3),
        parameters=13_967,
        train=True,
        call={'keep_paths': KEEP},
        upstream_fails=TypeError,
    ),
    Case(
        name='sine_strides_in_time',
        kwargs={
            **SMALL,
            'num_layers': 1,
            'positional_embedding': 'sine',
            'n_input_channels': 1,
            'n_conv_layers': 2,
            'kernel_size': 3,
            'stride': 2,
            'num_frames': 9,
            'frame_kernel_size': 5,
            'frame_stride': 2,
            'frame_padding': 1,
            'frame_pooling_kernel_size': 2,
            'frame_pooling_stride': 1,
        },
        inputs=video(2, 9, 10, 14, 1),
        parameters=57_311,
    ),
    Case(
        name='no_positions',
        kwargs={**SMALL, 'num_layers': 1, 'positional_embedding': 'none'},
        inputs=video(2, 5, 12, 16, 3),
        parameters=6_641,
    ),
    Case(
        name='preset',
        model='cct_2',
        kwargs=dict(img_size=8, num_frames=2, num_classes=7, positional_embedding='learnable'),
        inputs=video(2, 2, 8, 8, 3),
        parameters=214_152,
    ),
]

REFUSED = [
    Refused(says=r'70 tokens do not go with positions for 140', kwargs=SMALL, inputs=video(2, 2, 10, 14, 3)),
    Refused(
        says=r'num_frames=1 with img_size=\(10, 14\) is too small',
        kwargs={**SMALL, 'num_frames': 1, 'frame_padding': 0},
        inputs=video(2, 1, 10, 14, 3),
    ),
    Refused(says=r'layout \[b t h w c\], got shape \(4, 10, 14, 3\)', kwargs=SMALL, inputs=video(4, 10, 14, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 4, 10, 14, 1\)',
        kwargs=SMALL,
        inputs=video(2, 4, 10, 14, 1),
    ),
]
