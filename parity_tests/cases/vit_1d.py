from parity_tests.case import Case, Refused, series

SMALL = dict(seq_len=45, patch_size=5, num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)

CASES = [
    Case(name='cls', kwargs=SMALL, inputs=series(2, 45, 3), parameters=6_213),
    Case(name='shorter', kwargs={**SMALL, 'channels': 4, 'depth': 1}, inputs=series(2, 30, 4), parameters=3_615),
    Case(
        name='one_channel_no_output_projection',
        kwargs={**SMALL, 'heads': 1, 'dim_head': 20, 'depth': 1, 'channels': 1},
        inputs=series(2, 45, 1),
        parameters=3_025,
        train=True,
    ),
]

REFUSED = [
    Refused(
        says='seq_len=46 is not divisible by patch_size=5', kwargs={**SMALL, 'seq_len': 46}, inputs=series(2, 45, 3)
    ),
    Refused(says=r'layout \[b n c\], got shape \(2, 45\)', kwargs=SMALL, inputs=series(2, 45)),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 3, 45\).*unlike in PyTorch',
        kwargs=SMALL,
        inputs=series(2, 3, 45),
    ),
    Refused(
        says=r'the length of the series=\(44,\) is not divisible by patch_size=\(5,\)',
        kwargs=SMALL,
        inputs=series(2, 44, 3),
    ),
    Refused(
        says='have 10 patches, seq_len=45 has positions for 9: build the model with the larger seq_len',
        kwargs=SMALL,
        inputs=series(2, 50, 3),
    ),
]
