import numpy as np
import torch

from parity_tests.case import Case, Refused, image

SMALL = dict(
    image_size=(24, 36),
    patch_size=(4, 9),
    num_classes=7,
    dim=20,
    depth=3,
    heads=3,
    dim_head=6,
    mlp_dim=28,
    max_tokens_per_depth=(24, 11, 5),
)
rng = np.random.default_rng(0)
NOISE = dict(token_noise=(None, rng.gumbel(size=(2, 11, 24)), rng.gumbel(size=(2, 5, 11))))


def use_noise(module, call):
    """Upstream draws noise for the places that are left; each layer is known by how many it keeps."""
    by_samples = {noise.shape[1]: noise for noise in call['token_noise'] if noise is not None}

    def sample_gumbel(shape, device, dtype):
        return by_samples[shape[1]][:, :, : shape[2]].to(dtype)

    return {'sample_gumbel': sample_gumbel}


def fixed_samples(module, call):
    """Noise that makes upstream pick the paper's fixed samples of the shares it has just taken the logarithm of."""
    original, seen = module.log, []

    def log(t, eps=1e-6):
        seen.append(t.detach())
        return original(t, eps)

    def sample_gumbel(shape, device, dtype):
        samples, noise = shape[1], torch.zeros(shape, dtype=dtype)
        for index, share in enumerate(seen[-1]):
            cumulated = share.cumsum(0)
            for k in range(samples):
                pick = int((cumulated < (k + 0.5) / samples * cumulated[-1]).sum())
                noise[index, k, pick] = 1e3
        return noise

    return {'log': log, 'sample_gumbel': sample_gumbel}


CASES = [
    Case(
        name='fixed_samples', kwargs=SMALL, inputs=image(2, 24, 36, 3), parameters=11_267, upstream_patch=fixed_samples
    ),
    Case(
        name='noise',
        kwargs=SMALL,
        inputs=image(2, 24, 36, 3),
        parameters=11_267,
        call=NOISE,
        upstream_patch=use_noise,
    ),
    Case(
        name='few_tokens_left',
        kwargs={**SMALL, 'max_tokens_per_depth': (11, 9, 4)},
        inputs=image(2, 24, 36, 3),
        parameters=11_267,
        train=True,
        call=dict(token_noise=(rng.gumbel(size=(2, 11, 24)), rng.gumbel(size=(2, 9, 11)), rng.gumbel(size=(2, 4, 9)))),
        upstream_patch=use_noise,
    ),
    Case(
        name='smaller_grey',
        kwargs={**SMALL, 'channels': 1, 'heads': 1, 'dim_head': 20, 'depth': 1, 'max_tokens_per_depth': (13,)},
        inputs=image(2, 16, 36, 1),
        parameters=4_427,
        upstream_patch=fixed_samples,
    ),
]

REFUSED = [
    Refused(
        says=r'max_tokens_per_depth=\(9, 12, 4\) must hold depth=3 numbers.*none larger than the one before',
        kwargs={**SMALL, 'max_tokens_per_depth': (9, 12, 4)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'max_tokens_per_depth=\(9, 4\) must hold depth=3 numbers',
        kwargs={**SMALL, 'max_tokens_per_depth': (9, 4)},
        inputs=image(2, 24, 36, 3),
    ),
    Refused(
        says=r'token_noise holds 2 entries and must hold depth=3',
        kwargs=SMALL,
        inputs=image(2, 24, 36, 3),
        call=dict(token_noise=(None, None)),
    ),
    Refused(says=r'have 28 patches, image_size=\(24, 36\) has', kwargs=SMALL, inputs=image(2, 28, 36, 3)),
]
