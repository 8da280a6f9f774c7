"""Names of facebookresearch/mae, arXiv:2111.06377: a pretrained network with its decoder, or the encoder alone."""

from vit_flax.blocks.positions import Resampling
from vit_flax.weights.rows import Rearrange, Row
from vit_flax.weights.source import Family, Source
from vit_flax.weights.sources.dino import ALL, REQUIRES, configuration

# Of the objective: an encoder with timm's names, and a decoder, whose fixed positions are learned ones here.
ENCODER = tuple(Row(name, f'encoder.{name}') for name in ('cls_token', 'pos_embed', 'patch_embed', 'blocks', 'norm'))
BLOCKS = {
    'norm1': '0.norm',
    'attn.qkv': '0.to_qkv',
    'attn.proj': '0.to_out.0',
    'norm2': '1.net.0',
    'mlp.fc1': '1.net.1',
    'mlp.fc2': '1.net.4',
}
PRETRAINING = (
    *ENCODER,
    Row('mask_token', 'mask_token', Rearrange('1 1 d -> d')),
    Row('decoder_embed', 'enc_to_dec'),
    Row('decoder_pos_embed', 'decoder_pos_emb.weight', Rearrange('1 n d -> n d')),
    *(Row(f'decoder_blocks.{{i}}.{theirs}', f'decoder.layers.{{i}}.{ours}') for theirs, ours in BLOCKS.items()),
    Row('decoder_norm', 'decoder.norm'),
    Row('decoder_pred', 'to_pixels'),
)
# Arguments of the objective that has these arrays.
OBJECTIVE = {'class_token': (True,), 'decoder_positions': ('learned',), 'decoder_qkv_bias': (True,)}

SOURCE = Source(
    'mae',
    "facebookresearch/mae's",
    (
        Family(
            'pretraining',
            'MAE',
            ('cls_token', 'patch_embed.proj', 'decoder_embed', 'decoder_pred'),
            lambda model: PRETRAINING,
            requires=OBJECTIVE,
        ),
        Family(
            'encoder',
            'VisionTransformer',
            ('cls_token', 'patch_embed.proj', 'blocks.{i}.norm1'),
            lambda model: (ALL,),
            absent=('blocks.{i}.gamma_1', 'blocks.{i}.ls1', 'dist_token', 'register_tokens'),
            requires={**REQUIRES, 'distilled': (False,), 'init_values': (None,)},
            head_requires={'global_pool': ('token', 'avg')},
            left_out=(
                'mask_token',
                'decoder_embed',
                'decoder_pos_embed',
                'decoder_blocks',
                'decoder_norm',
                'decoder_pred',
            ),
            positions=1,
            configuration=configuration,
        ),
    ),
    resampling=Resampling(),
)
