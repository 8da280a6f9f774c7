from parity_tests.case import Case, Refused, image

# Windows are 7 and heads 32 wide, whatever is asked for, unless use_sizes is set.
SMALL = dict(num_classes=5, dim=6, depth=(1,), heads=3, window_size=3, dim_head=4, ff_mult=2)

CASES = [
    Case(name='sizes_without_effect', kwargs=SMALL, inputs=image(2, 28, 56, 3), parameters=22_185),
    Case(
        name='two_stages',
        kwargs={**SMALL, 'depth': (1, 2), 'heads': (2, 3), 'use_sizes': True, 'window_size': (2, 3)},
        inputs=image(2, 24, 48, 3),
        parameters=5_531,
        train=True,
        upstream_fails=TypeError,
    ),
    Case(
        name='one_window_grey',
        kwargs={**SMALL, 'channels': 1},
        inputs=image(2, 28, 28, 1),
        parameters=21_597,
        unused=(r'.*/window_attention/.*',),
    ),
]

REFUSED = [
    Refused(
        says=r'window_size=\(7, 7\) does not divide the feature map of 6 x 12', kwargs=SMALL, inputs=image(2, 24, 48, 3)
    ),
    Refused(
        says=r'window_size=\(3, 3\) does not divide the feature map of 7 x 14',
        kwargs={**SMALL, 'use_sizes': True},
        inputs=image(2, 28, 56, 3),
    ),
    Refused(
        says=r'heads=\(2, 3\) must be one value, or one for each of the 1 stages',
        kwargs={**SMALL, 'heads': (2, 3)},
        inputs=image(2, 28, 56, 3),
    ),
    Refused(says=r'depth=2 must be a sequence', kwargs={**SMALL, 'depth': 2}, inputs=image(2, 28, 56, 3)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 28, 56, 1\)',
        kwargs=SMALL,
        inputs=image(2, 28, 56, 1),
    ),
]
