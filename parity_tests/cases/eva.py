from parity_tests.case import Case, Refused, image

# heads of eight, of which a quarter is one frequency of each axis
SMALL = dict(img_size=(24, 36), patch_size=(4, 9), num_classes=7, embed_dim=24, depth=2, num_heads=3, mlp_ratio=1.45)
IMAGES = image(2, 24, 36, 3)
EVA_02 = dict(qkv_fused=False, swiglu_mlp=True, scale_mlp=True, use_rot_pos_emb=True, ref_feat_shape=(5, 7))
DINO_3 = dict(
    dynamic_img_size=True, qkv_bias=False, init_values=0.1, rope_type='dinov3', rope_temperature=100.0,
    rope_rotate_half=True, use_rot_pos_emb=True, use_abs_pos_emb=False, swiglu_mlp=True, swiglu_align_to=8,
    num_reg_tokens=3, use_fc_norm=False, norm_eps=1e-5,
)  # fmt: skip
MIXED = dict(
    attn_type='rope', global_pool='token', no_embed_class=True, use_rot_pos_emb=True, rope_grid_indexing='xy',
    rope_temperature=10.0, rope_type='mixed',
)  # fmt: skip
PERCEPTION = dict(
    global_pool='map', attn_type='rope', use_pre_transformer_norm=True, use_rot_pos_emb=True, ref_feat_shape=8,
    rope_grid_offset=1.0, rope_grid_indexing='xy', attn_pool_num_heads=2, attn_pool_mlp_ratio=2.0,
)  # fmt: skip
SAPIENS = dict(
    num_kv_heads=(3, 1), attn_type='rope', qkv_fused=False, qk_norm=True, swiglu_mlp=True, init_values=1.0,
    attn_only_layer_scale=True, norm='rms', rope_rescale_coords=2.0, global_pool='token',
)  # fmt: skip


def narrow(args):
    """What becomes of arguments of a published network at the sizes of `SMALL`: as many heads of keys as fit."""
    kv_heads = args.get('num_kv_heads')
    shared = {} if kv_heads is None else {'num_kv_heads': (3, 1) if len(set(kv_heads)) > 1 else (3, 3)}
    return shared | ({'attn_pool_num_heads': 2} if 'attn_pool_num_heads' in args else {})


CASES = [
    Case(name='eva_02', kwargs={**SMALL, **EVA_02}, inputs=IMAGES, parameters=13_623),
    Case(name='dino_3', kwargs={**SMALL, **DINO_3}, inputs=image(2, 20, 27, 3), parameters=13_847),
    Case(name='mixed', kwargs={**SMALL, **MIXED}, inputs=IMAGES, parameters=11_859),
    Case(name='perception_encoder', kwargs={**SMALL, **PERCEPTION}, inputs=IMAGES, parameters=16_707),
    Case(name='sapiens', kwargs={**SMALL, **SAPIENS}, inputs=IMAGES, parameters=12_695),
    Case(
        name='norms_behind',
        kwargs={**SMALL, 'use_post_norm': True, 'scale_attn_inner': True, 'global_pool': 'avgmax'},
        inputs=IMAGES,
        parameters=11_883,
    ),
]

REFUSED = [
    Refused(says='num_heads=5 must divide embed_dim=24', kwargs={**SMALL, 'num_heads': 5}, inputs=IMAGES),
    Refused(
        says='embed_dim=24 over num_heads=4 must be a multiple of 4',
        kwargs={**SMALL, 'num_heads': 4, 'use_rot_pos_emb': True},
        inputs=IMAGES,
    ),
    Refused(
        says="rope_rotate_half=True is not for rope_type='mixed'",
        kwargs={**SMALL, **MIXED, 'rope_rotate_half': True},
        inputs=IMAGES,
    ),
    Refused(says='num_kv_heads=2 must divide num_heads=3', kwargs={**SMALL, 'num_kv_heads': 2}, inputs=IMAGES),
    Refused(says="num_kv_heads=1 needs attn_type='rope'", kwargs={**SMALL, 'num_kv_heads': 1}, inputs=IMAGES),
    Refused(
        says=r'num_kv_heads=\(1,\) must be one number, or one for each of depth=2',
        kwargs={**SMALL, 'num_kv_heads': (1,)},
        inputs=IMAGES,
    ),
    Refused(says='scan=True needs blocks that are alike', kwargs={**SMALL, **SAPIENS, 'scan': True}, inputs=IMAGES),
    Refused(
        says='use_post_norm=True is without qk_norm',
        kwargs={**SMALL, 'use_post_norm': True, 'qk_norm': True},
        inputs=IMAGES,
    ),
    Refused(
        says='rope_jitter_coords=0.5 must be at least 1', kwargs={**SMALL, 'rope_jitter_coords': 0.5}, inputs=IMAGES
    ),
    Refused(says='attn_pool_num_heads=5 must divide', kwargs={**SMALL, 'attn_pool_num_heads': 5}, inputs=IMAGES),
]
