from parity_tests.case import Case, Refused, image

# Heads are 32 wide in this model; the rest is small.
SMALL = dict(
    dim=(36, 64, 40, 32),
    depth=(1, 0, 1, 0),
    global_window_size=(2, 3, 2, 3),
    local_window_size=(3, 2, 3, 2),
    cross_embed_kernel_sizes=((2, 8, 4), (2, 4), (1, 3), (3, 1)),
    cross_embed_strides=(2, 2, 1, 1),
    num_classes=7,
)


def any_dtype(module, call):
    """Upstream makes its ways between places in float32, whatever the weights are."""
    original = module.DynamicPositionBias

    def bias_network(dim):
        network = original(dim)
        network.register_forward_pre_hook(lambda network, ways: ways[0].to(network[0].weight))
        return network

    return {'DynamicPositionBias': bias_network}


# added to all scores of a window alike, which no softmax sees
CONSTANT = ('.*/dpb/to_bias/bias',)

CASES = [
    Case(
        name='eval',
        kwargs=SMALL,
        inputs=image(2, 24, 48, 3),
        upstream_patch=any_dtype,
        parameters=113_515,
        unused=CONSTANT,
    ),
    Case(
        name='one_value_for_all_stages',
        kwargs={**SMALL, 'dim': 32, 'depth': (0, 1, 0, 2), 'local_window_size': 3, 'channels': 1},
        inputs=image(2, 24, 48, 1),
        parameters=98_541,
        unused=CONSTANT,
        upstream_patch=any_dtype,
        train=True,
    ),
    Case(
        name='paper_bias_index',
        kwargs={**SMALL, 'depth': (1, 0, 0, 0), 'paper_bias_index': True},
        inputs=image(2, 24, 48, 3),
        parameters=76_233,
        unused=CONSTANT,
        upstream_fails=TypeError,
    ),
]

REFUSED = [
    Refused(
        says=r'local_window_size=\(3, 3\) does not divide the feature map of 14 x 24',
        kwargs=SMALL,
        inputs=image(2, 28, 48, 3),
    ),
    Refused(
        says=r'global_window_size=\(5, 5\) does not divide the feature map of 12 x 24',
        kwargs={**SMALL, 'global_window_size': 5},
        inputs=image(2, 24, 48, 3),
    ),
    Refused(says=r'dim=24 must be at least 32', kwargs={**SMALL, 'dim': 24}, inputs=image(2, 24, 48, 3)),
    Refused(
        says=r'depth=\(1, 1\) must be one value, or one for each of the 4 stages',
        kwargs={**SMALL, 'depth': (1, 1)},
        inputs=image(2, 24, 48, 3),
    ),
    Refused(
        says=r'cross_embed_kernel_sizes=\(2, 3\) at cross_embed_strides=2 give maps of different sizes',
        kwargs={**SMALL, 'cross_embed_kernel_sizes': ((2, 3), (2, 4), (1, 3), (1, 3))},
        inputs=image(2, 24, 48, 3),
    ),
    Refused(
        says=r'expected 3 channels in the last axis, got shape \(2, 24, 48, 1\)',
        kwargs=SMALL,
        inputs=image(2, 24, 48, 1),
    ),
]
