from parity_tests.case import Case, Refused, image

SMALL = dict(img_size=(20, 27), patch_size=(4, 9), num_classes=7, embed_dim=20, depth=2, num_heads=4, mlp_ratio=1.45)
IMAGES = image(2, 20, 27, 3)
TABLES = dict(use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1)


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`: nothing."""
    return {}


CASES = [
    Case(name='a_table_each', kwargs={**SMALL, **TABLES}, inputs=IMAGES, parameters=8_749),
    Case(
        name='shared_table',
        kwargs={**SMALL, 'use_shared_rel_pos_bias': True, 'swiglu_mlp': True, 'scale_mlp': True, 'global_pool': ''},
        inputs=IMAGES,
        parameters=10_131,
    ),
    Case(
        name='both_tables',
        kwargs={
            **SMALL,
            **TABLES,
            'use_shared_rel_pos_bias': True,
            'qkv_bias': False,
            'global_pool': 'token',
            'init_values': None,
        },
        inputs=IMAGES,
        parameters=8_781,
    ),
]

REFUSED = [
    Refused(says='num_heads=3 must divide embed_dim=20', kwargs={**SMALL, 'num_heads': 3}, inputs=IMAGES),
    Refused(says=r'img_size=\(20, 27\) one of \(5, 3\)', kwargs={**SMALL, **TABLES}, inputs=image(2, 24, 27, 3)),
    Refused(says="global_pool='map' must be", kwargs={**SMALL, 'global_pool': 'map'}, inputs=IMAGES),
]
