from unittest import mock

import numpy as np
import torch

from parity_tests.case import Case, Refused, Submodule, image

SMALL = dict(
    image_size=(12, 24),
    patch_size=(4, 6),
    num_classes=7,
    dim=20,
    depth=2,
    num_slots=(5, 3),
    heads=2,
    dim_head=6,
    mlp_dim=28,
)
DEEP = dict(num_slots=(5, 4, 2), interactions=((0, 1), (0, 2), (1, 2), (2, 3)))
PICTURES = image(2, 12, 24, 3)
PROJECTIONS = np.random.default_rng(0).normal(size=(2, 9, 20))


def last(depth: int, *names: str) -> tuple[str, ...]:
    """These parts of the last block."""
    return tuple(rf'transformer/block_{depth - 1}/{name}.*' for name in names)


# Without a head or the embeddings nobody reads the last masks, and without `return_tokens` the last tokens.
MASKS, TOKENS = r'attention_\d/mask_', 'feedforward_0/'
TO_TOKENS = r'attention_\d/(to_out_tokens|tokens_gate)/'


def head(**kwargs) -> Submodule:
    return Submodule('models.wwt', 'AutoencodingHead', dict(image_size=(12, 24), patch_size=(4, 6), **kwargs))


def given_projections(module, call):
    """Upstream draws the projections itself, for one level after the other, and in float32."""
    draws, original = iter(call['sigreg_projections']), module.sigreg_loss

    def sigreg_loss(slots):
        torch.set_default_dtype(torch.float64)
        try:
            with mock.patch('torch.randn', return_value=next(draws)):
                return original(slots)
        finally:
            torch.set_default_dtype(torch.float32)

    return {'sigreg_loss': sigreg_loss}


CASES = [
    Case(
        name='slots_and_registers',
        kwargs={**SMALL, 'num_register_tokens': 2, 'num_register_slots': (3, 1)},
        inputs=PICTURES,
        parameters=20_943,
        unused=last(2, MASKS, TOKENS, TO_TOKENS),
    ),
    Case(
        name='tokens_two_maps',
        kwargs={
            **SMALL,
            'return_tokens': True,
            'token_softmax_over_slots': True,
            'l1norm_after_tokens_softmax': True,
            'num_register_slots': (3, 0),
        },
        inputs=PICTURES,
        parameters=24_330,
        unused=last(2, MASKS),
        train=True,
    ),
    Case(
        name='everything_returned',
        kwargs={
            **SMALL,
            **DEEP,
            'return_tokens': True,
            'token_softmax_over_slots': True,
            'project_mask_groups': True,
            'gate_attention': False,
            'sigreg_slots': (True, False, True),
            'num_register_tokens': 1,
            'num_register_slots': 1,
            'task_heads': (
                head(pathways=((3, 2, 0), (0, 2, 3), (0, 1, 2, 3)), channel_first=True),
                head(
                    pathways=((0, 1),),
                    decoder=Submodule(
                        'transformers.x_transformers',
                        'Encoder',
                        dict(dim=20, depth=1, heads=2, attn_dim_head=6, attn_qk_norm=True),
                        upstream='x_transformers',
                    ),
                ),
            ),
        },
        inputs=PICTURES,
        parameters=39_522,
        call=dict(sigreg_projections=PROJECTIONS),
        feature_maps=False,
        upstream_patch=given_projections,
    ),
    Case(
        name='embeddings',
        kwargs={**SMALL, 'token_softmax_over_slots': True, 'channels': 1, 'depth': 1, 'mlp_dim': None},
        inputs=image(2, 12, 24, 1),
        parameters=23_315,
        options=dict(return_embeddings=True),
        feature_maps=False,
        unused=('mlp_head/.*', *last(1, TOKENS)),
    ),
    Case(
        name='embeddings_with_tokens_one_level',
        kwargs={**SMALL, 'return_tokens': True, 'num_slots': 4, 'depth': 1},
        inputs=PICTURES,
        parameters=7_254,
        options=dict(return_embeddings=True),
        feature_maps=False,
        unused=('mlp_head/.*', 'mlp_head_tokens/.*'),
    ),
    Case(
        name='logits_and_loss_and_default_pathways',
        kwargs={**SMALL, 'sigreg_slots': True, 'task_heads': head(), 'depth': 1},
        inputs=PICTURES,
        parameters=11_007,
        call=dict(sigreg_projections=PROJECTIONS),
        feature_maps=False,
        upstream_patch=given_projections,
        unused=last(1, TOKENS),
    ),
    Case(
        name='tokens_and_loss',
        kwargs={**SMALL, 'sigreg_slots': (False, True), 'return_tokens': True, 'depth': 1},
        inputs=PICTURES,
        parameters=11_174,
        call=dict(sigreg_projections=PROJECTIONS[:1]),
        upstream_patch=given_projections,
        unused=last(1, MASKS),
    ),
]

REFUSED = [
    Refused(
        says=r'num_slots=\(3, 5\) must fall strictly from level to level',
        kwargs={**SMALL, 'num_slots': (3, 5)},
        inputs=PICTURES,
    ),
    Refused(
        says=r'interactions=\(\(0, 1\), \(2, 1\)\) must be different pairs of levels 0 to 2, the lower level first',
        kwargs={**SMALL, 'interactions': ((0, 1), (2, 1))},
        inputs=PICTURES,
    ),
    Refused(
        says=r'num_register_slots=\(1, 2, 3\) must be one value or 2',
        kwargs={**SMALL, 'num_register_slots': (1, 2, 3)},
        inputs=PICTURES,
    ),
    Refused(
        says=r'sigreg_slots=\(True,\) must be one value or 2',
        kwargs={**SMALL, 'sigreg_slots': (True,)},
        inputs=PICTURES,
    ),
    Refused(
        says=r'pathway \(0, 2, 1\) of pathways must rise or fall all the way',
        kwargs={**SMALL, 'task_heads': head(pathways=((0, 2, 1),))},
        inputs=PICTURES,
    ),
    Refused(
        says=r'pathway \(2, 1, 0\) needs the interaction \(1, 2\): there are \[\(0, 1\), \(0, 2\)\]',
        kwargs={**SMALL, 'task_heads': head(pathways=((2, 1, 0),))},
        inputs=PICTURES,
    ),
    Refused(says=r'must be of image_size=\(12, 24\)', kwargs=SMALL, inputs=image(2, 12, 18, 3)),
    Refused(says=r'image_size=\(13, 24\) is not', kwargs={**SMALL, 'image_size': (13, 24)}, inputs=PICTURES),
]
