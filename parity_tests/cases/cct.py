import numpy as np
import torch

from parity_tests.case import Case, Input, Refused, image

TOKENS = dict(
    embedding_dim=18,
    num_layers=3,
    num_heads=3,
    mlp_ratio=1.5,
    num_classes=7,
    attention_dropout=0.0,
    stochastic_depth_rate=0.0,
    positional_embedding='learnable',
)
SMALL = dict(**TOKENS, img_size=(24, 32), kernel_size=5, stride=1, padding=2)
KEEP = np.array([[[True, True], [True, True]], [[True, False], [False, True]], [[False, True], [True, True]]])


def keep_these(module, call):
    """Upstream draws for all branches but those of the first layer, whose rate is zero."""
    branches = iter(call['keep_paths'][1:].flatten(0, 1))

    class DropPath(torch.nn.Module):
        def __init__(self, rate):
            super().__init__()
            self.rate = rate

        def forward(self, x):
            return x * next(branches)[:, None, None] / (1 - self.rate) if self.rate else x

    return {'DropPath': DropPath}


CASES = [
    Case(name='seq_pool', kwargs=SMALL, inputs=image(2, 24, 32, 3), parameters=12_203),
    Case(
        name='dropped_paths',
        kwargs={**SMALL, 'stochastic_depth_rate': 0.5},
        inputs=image(2, 24, 32, 3),
        parameters=12_203,
        train=True,
        call={'keep_paths': KEEP},
        upstream_patch=keep_these,
    ),
    Case(
        name='sine_two_convolutions',
        kwargs={
            **SMALL,
            'num_layers': 1,
            'positional_embedding': 'sine',
            'n_input_channels': 1,
            'n_conv_layers': 2,
            'kernel_size': 3,
            'stride': 2,
            'pooling_kernel_size': 2,
            'pooling_stride': 1,
            'pooling_padding': 0,
        },
        inputs=image(2, 24, 32, 1),
        parameters=13_535,
    ),
    Case(
        name='class_token',
        kwargs={**SMALL, 'num_layers': 1, 'seq_pool': False},
        inputs=image(2, 24, 32, 3),
        parameters=7_414,
        upstream_fails=TypeError,
    ),
    Case(
        name='no_positions',
        kwargs={**SMALL, 'num_layers': 1, 'positional_embedding': 'none'},
        inputs=image(2, 28, 36, 3),
        parameters=3_941,
    ),
    Case(
        name='no_positions_smaller_image',
        kwargs={**SMALL, 'num_layers': 1, 'positional_embedding': 'none'},
        inputs=image(2, 16, 20, 3),
        parameters=3_941,
        upstream_fails=AttributeError,
    ),
    Case(
        name='preset',
        model='cct_2',
        kwargs=dict(img_size=16, num_classes=7, positional_embedding='learnable', kernel_size=7),
        inputs=image(2, 16, 16, 3),
        parameters=220_552,
    ),
    Case(
        name='tokens',
        model='TransformerClassifier',
        kwargs={**TOKENS, 'num_layers': 1, 'sequence_length': 5, 'seq_pool': False, 'dropout_rate': 0.0},
        inputs=(Input((2, 5, 18), 'b n d'),),
        parameters=2_698,
    ),
]

REFUSED = [
    Refused(
        says=r"positional_embedding='rotary' is unknown: use one of 'sine', 'learnable', 'none'",
        kwargs={**SMALL, 'positional_embedding': 'rotary'},
        inputs=image(2, 24, 32, 3),
    ),
    Refused(says=r'48 tokens do not go with positions for 192', kwargs=SMALL, inputs=image(2, 12, 16, 3)),
    Refused(
        says=r'embedding_dim=18 is not divisible by num_heads=4',
        kwargs={**SMALL, 'num_heads': 4},
        inputs=image(2, 24, 32, 3),
    ),
    Refused(
        says=r'stochastic_depth_rate=1.0 must be at least 0 and below 1',
        kwargs={**SMALL, 'stochastic_depth_rate': 1.0},
        inputs=image(2, 24, 32, 3),
    ),
    Refused(
        says=r'img_size=\(2, 2\) is too small',
        kwargs={**SMALL, 'img_size': 2, 'padding': 0},
        inputs=image(2, 2, 2, 3),
    ),
    Refused(
        says=r"sequence_length=None does not go with positional_embedding='learnable'",
        model='TransformerClassifier',
        kwargs=TOKENS,
        inputs=(Input((2, 5, 18), 'b n d'),),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 24, 32, 1\)',
        kwargs=SMALL,
        inputs=image(2, 24, 32, 1),
    ),
]
