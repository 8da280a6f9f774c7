from parity_tests.case import Case, Input, Refused, image

SMALL = dict(
    image_size=(24, 36),
    patch_size=(4, 9),
    num_classes=7,
    dim=20,
    depth=3,
    heads=3,
    dim_head=6,
    mlp_dim=28,
    patch_merge_num_tokens=5,
)

CASES = [
    Case(name='half_way', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=11_387),
    Case(
        name='last_layer',
        kwargs={**SMALL, 'patch_merge_layer': 2, 'depth': 2, 'channels': 1},
        inputs=image(2, 20, 45, 1),
        parameters=7_095,
        train=True,
    ),
    Case(
        name='never',
        kwargs={**SMALL, 'depth': 1},
        inputs=image(2, 20, 27, 3),
        parameters=5_971,
        unused=('transformer/patch_merger/.*',),
    ),
    Case(
        name='merger_alone',
        model='PatchMerger',
        kwargs=dict(dim=20, num_tokens_out=5),
        inputs=(Input((2, 11, 20), 'b n d'),),
        parameters=140,
    ),
]

REFUSED = [
    Refused(
        says=r'have 28 patches, image_size=\(24, 36\) has positions for 25', kwargs=SMALL, inputs=image(2, 28, 36, 3)
    ),
    Refused(
        says=r'width dim=20, got shape \(2, 11, 24\)',
        model='PatchMerger',
        kwargs=dict(dim=20, num_tokens_out=5),
        inputs=(Input((2, 11, 24), 'b n d'),),
    ),
]
