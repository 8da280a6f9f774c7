from parity_tests.case import Case, Refused, image

# The bias between local tokens reaches the regions, and so the logits, only through a further block.
LAST = ('transformer_3/local_rel_pos_bias',)
# Attention has 4 heads, 32 wide, in this model; the rest is small.
SMALL = dict(dim=(6, 9, 7, 10), depth=1, window_size=2, num_classes=5)

CASES = [
    Case(name='eval', kwargs=SMALL, inputs=image(2, 32, 64, 3), unused=LAST, parameters=23_076),
    Case(
        name='train',
        kwargs={**SMALL, 'dim': 8, 'depth': (1, 1, 1, 2), 'use_peg': True, 'tokenize_local_3_conv': True},
        inputs=image(2, 32, 64, 3),
        parameters=28_605,
        train=True,
    ),
    Case(
        name='smaller_local_patches',
        kwargs={**SMALL, 'window_size': 4, 'local_patch_size': 2},
        inputs=image(2, 32, 64, 3),
        unused=LAST,
        parameters=23_716,
    ),
    Case(
        name='grey',
        kwargs={**SMALL, 'channels': 1},
        inputs=image(2, 32, 64, 1),
        unused=LAST,
        parameters=21_540,
        upstream_fails=RuntimeError,
    ),
]

REFUSED = [
    Refused(
        says=r'images of shape \(2, 32, 60, 3\) cannot be cut into regions of 8 pixels a side',
        kwargs=SMALL,
        inputs=image(2, 32, 60, 3),
    ),
    Refused(
        says=r'regions hold 4 x 4 local tokens, window_size=2 has a bias for no more',
        kwargs={**SMALL, 'local_patch_size': 8},
        inputs=image(2, 32, 64, 3),
    ),
    Refused(
        says=r'3 x 4 local tokens cannot be shared out to 2 x 2 regions',
        kwargs={**SMALL, 'window_size': 2},
        inputs=image(2, 24, 32, 3),
    ),
    Refused(
        says=r'dim=\(6, 9, 7\) must be one value, or one for each of the 4 stages',
        kwargs={**SMALL, 'dim': (6, 9, 7)},
        inputs=image(2, 32, 64, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 32, 64, 1\)',
        kwargs=SMALL,
        inputs=image(2, 32, 64, 1),
    ),
]
