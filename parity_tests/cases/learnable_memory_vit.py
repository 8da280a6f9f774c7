from parity_tests.case import Case, Refused, Submodule, image

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)


def adapter(stem='learnable_memory_vit', **changes):
    vit = Submodule(f'models.{stem}', 'ViT', {**SMALL, **changes})
    return dict(vit=vit, num_memories_per_layer=5, num_classes=4)


CASES = [
    Case(name='vit', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=8_559),
    Case(
        name='vit_mean_is_cls',
        kwargs={**SMALL, 'pool': 'mean', 'depth': 1, 'channels': 1},
        inputs=image(2, 24, 36, 1),
        parameters=4_267,
        train=True,
    ),
    Case(
        name='adapter',
        model='Adapter',
        kwargs=adapter(),
        inputs=image(2, 24, 36, 3),
        parameters=8_903,
        unused=('vit/.*',),
    ),
    Case(
        name='adapter_smaller_image',
        model='Adapter',
        kwargs=adapter(depth=1),
        inputs=image(2, 20, 27, 3),
        parameters=6_095,
        train=True,
        unused=('vit/.*',),
        upstream_fails=RuntimeError,
    ),
]

REFUSED = [
    Refused(
        says=r'have 28 patches, image_size=\(24, 36\) has positions for 24',
        model='Adapter',
        kwargs=adapter(),
        inputs=image(2, 28, 36, 3),
    ),
    Refused(
        says=r'vit=ViT\(\.\.\.\) must be a vit_flax.models.learnable_memory_vit.ViT',
        model='Adapter',
        kwargs=adapter('vit'),
        inputs=image(2, 24, 36, 3),
    ),
]
