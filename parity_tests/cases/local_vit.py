from parity_tests.case import Case, Refused, image

SMALL = dict(image_size=24, patch_size=4, num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
LAST = ('transformer/block_1/feedforward/.*',)


def norm_over_channels(module, call):
    """Upstream's feed-forward network with its norm before the rearrangement; all else is upstream's."""

    class FeedForward(module.FeedForward):
        def forward(self, x):
            rows = int(x.shape[1] ** 0.5)
            x = module.rearrange(self.net[0](x), 'b (h w) c -> b c h w', h=rows)
            return module.rearrange(self.net[1:](x), 'b c h w -> b (h w) c')

    return {'FeedForward': FeedForward}


CASES = [
    Case(
        name='eval',
        kwargs=SMALL,
        inputs=image(2, 24, 24, 3),
        parameters=9_663,
        unused=LAST,
        upstream_patch=norm_over_channels,
    ),
    Case(
        name='one_head_smaller_image',
        kwargs={**SMALL, 'heads': 1, 'dim_head': 20, 'channels': 1},
        inputs=image(2, 16, 16, 1),
        parameters=9_279,
        train=True,
        unused=LAST,
        upstream_patch=norm_over_channels,
    ),
    Case(
        name='rectangular',
        kwargs={**SMALL, 'image_size': (24, 36), 'patch_size': (4, 9)},
        inputs=image(2, 20, 36, 3),
        parameters=10_743,
        unused=LAST,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(says=r'image_size=\(26, 26\) is not', kwargs={**SMALL, 'image_size': 26}, inputs=image(2, 26, 26, 3)),
    Refused(says=r'have 42 patches, image_size=24 has positions for 36', kwargs=SMALL, inputs=image(2, 28, 24, 3)),
]
