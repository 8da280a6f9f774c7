"""Names of Hugging Face's transformers: plain vision transformers and the image encoders of CLIP and SigLIP.

Those of files, which transformers 5 still writes with the names of version 4; the names that its modules have since are
read too, and those of Flax in `flax_model.msgpack`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from vit_flax.blocks.positions import Resampling
from vit_flax.blocks.weight_ops import kernel_op
from vit_flax.weights.rows import Rearrange, Row
from vit_flax.weights.source import GIVEN, Configuration, Family, Source, mlp_ratio_of

BLOCK, QKV = 'encoder.layer.{i}', ('query', 'key', 'value')
VIT = (
    Row('embeddings.cls_token', 'cls_token'),
    Row('embeddings.position_embeddings', 'pos_embed'),
    Row('embeddings.patch_embeddings.projection', 'patch_embed.proj'),
    Row(f'{BLOCK}.layernorm_before', 'blocks.{i}.norm1'),
    Row(tuple(f'{BLOCK}.attention.attention.{part}' for part in QKV), 'blocks.{i}.attn.qkv'),
    Row(f'{BLOCK}.attention.output.dense', 'blocks.{i}.attn.proj'),
    Row(f'{BLOCK}.layernorm_after', 'blocks.{i}.norm2'),
    Row(f'{BLOCK}.intermediate.dense', 'blocks.{i}.mlp.fc1'),
    Row(f'{BLOCK}.output.dense', 'blocks.{i}.mlp.fc2'),
)
# What modules are called in transformers 5.
VIT_MODULES = (
    *(Row(f'layers.{{i}}.attention.{part[0]}_proj', f'{BLOCK}.attention.attention.{part}') for part in QKV),
    Row('layers.{i}.attention.o_proj', f'{BLOCK}.attention.output.dense'),
    Row('layers.{i}.mlp.fc1', f'{BLOCK}.intermediate.dense'),
    Row('layers.{i}.mlp.fc2', f'{BLOCK}.output.dense'),
    Row('layers.{i}', BLOCK),
)
DINOV2 = (
    Row('embeddings.register_tokens', 'reg_token'),
    Row(f'{BLOCK}.norm1', 'blocks.{i}.norm1'),
    Row(f'{BLOCK}.layer_scale1.lambda1', 'blocks.{i}.ls1.gamma'),
    Row(f'{BLOCK}.norm2', 'blocks.{i}.norm2'),
    Row(f'{BLOCK}.mlp.weights_in', 'blocks.{i}.mlp.fc1'),
    Row(f'{BLOCK}.mlp.weights_out', 'blocks.{i}.mlp.fc2'),
    Row(f'{BLOCK}.layer_scale2.lambda1', 'blocks.{i}.ls2.gamma'),
)
DINOV2_MODULES = (
    *(Row(f'{BLOCK}.attention.{part[0]}_proj', f'{BLOCK}.attention.attention.{part}') for part in QKV),
    Row(f'{BLOCK}.attention.o_proj', f'{BLOCK}.attention.output.dense'),
    Row((f'{BLOCK}.mlp.gate_proj', f'{BLOCK}.mlp.up_proj'), f'{BLOCK}.mlp.weights_in'),
    Row(f'{BLOCK}.mlp.down_proj', f'{BLOCK}.mlp.weights_out'),
)
LAYER = 'decoder.decoder_layers.{i}'
DECODER = (
    Row('decoder.mask_token', 'mask_token', Rearrange('1 1 d -> d')),
    Row('decoder.decoder_embed', 'enc_to_dec'),
    Row('decoder.decoder_pos_embed', 'decoder_pos_emb.weight', Rearrange('1 n d -> n d')),
    Row(f'{LAYER}.layernorm_before', 'decoder.layers.{i}.0.norm'),
    Row(tuple(f'{LAYER}.attention.attention.{part}' for part in QKV), 'decoder.layers.{i}.0.to_qkv'),
    Row(f'{LAYER}.attention.output.dense', 'decoder.layers.{i}.0.to_out.0'),
    Row(f'{LAYER}.layernorm_after', 'decoder.layers.{i}.1.net.0'),
    Row(f'{LAYER}.intermediate.dense', 'decoder.layers.{i}.1.net.1'),
    Row(f'{LAYER}.output.dense', 'decoder.layers.{i}.1.net.4'),
    Row('decoder.decoder_norm', 'decoder.norm'),
    Row('decoder.decoder_pred', 'to_pixels'),
)
DECODER_MODULES = (
    *(Row(f'{LAYER}.attention.{part[0]}_proj', f'{LAYER}.attention.attention.{part}') for part in QKV),
    Row(f'{LAYER}.attention.o_proj', f'{LAYER}.attention.output.dense'),
    Row(f'{LAYER}.mlp.fc1', f'{LAYER}.intermediate.dense'),
    Row(f'{LAYER}.mlp.fc2', f'{LAYER}.output.dense'),
    # as transformers 5 writes them
    Row('decoder.decoder_encoder.layer.{i}', LAYER),
)
CLIP = (
    Row('embeddings.class_embedding', 'cls_token', Rearrange('d -> 1 1 d')),
    Row('embeddings.position_embedding.weight', 'pos_embed', Rearrange('n d -> 1 n d')),
    Row('embeddings.patch_embedding', 'patch_embed.proj'),
    Row('pre_layrnorm', 'norm_pre'),
    Row('encoder.layers.{i}.layer_norm1', 'blocks.{i}.norm1'),
    Row(tuple(f'encoder.layers.{{i}}.self_attn.{part}_proj' for part in 'qkv'), 'blocks.{i}.attn.qkv'),
    Row('encoder.layers.{i}.self_attn.out_proj', 'blocks.{i}.attn.proj'),
    Row('encoder.layers.{i}.layer_norm2', 'blocks.{i}.norm2'),
    Row('encoder.layers.{i}.mlp', 'blocks.{i}.mlp'),
)
POOLING_HEAD = (
    Row('head.probe', 'attn_pool.latent'),
    Row('head.attention.in_proj_weight', ('attn_pool.q.weight', 'attn_pool.kv.weight'), shares=(1, 2)),
    Row('head.attention.in_proj_bias', ('attn_pool.q.bias', 'attn_pool.kv.bias'), shares=(1, 2)),
    Row('head.attention.out_proj', 'attn_pool.proj'),
    Row('head.layernorm', 'attn_pool.norm'),
    Row('head.mlp', 'attn_pool.mlp'),
)
HEAD = (Row('classifier', 'head'),)


def last_norm(model: Any) -> str:
    """Ours, whichever side of the pooling it is on."""
    behind = model.global_pool in ('avg', 'avgmax', 'max') if model.fc_norm is None else model.fc_norm
    return 'fc_norm' if behind else 'norm'


def vit(model: Any) -> tuple[Row, ...]:
    """Rows of a ViT; its pooler is our `representation_size`."""
    pooler = (Row('pooler.dense', 'pre_logits.fc'),) if model.representation_size else ()
    return *VIT, Row('layernorm', last_norm(model)), *pooler


def deit(model: Any) -> tuple[Row, ...]:
    """With a token that learns from a teacher: a second head's, or only one more token."""
    return *vit(model), Row('embeddings.distillation_token', 'dist_token' if model.distilled else 'reg_token')


def dinov2(model: Any) -> tuple[Row, ...]:
    """With registers and packed gates."""
    kind = DINOV2 if model.mlp == 'swiglu_packed' else (Row(f'{BLOCK}.mlp', 'blocks.{i}.mlp'), *DINOV2)
    return *kind, *VIT, Row('layernorm', last_norm(model))


def clip(model: Any) -> tuple[Row, ...]:
    return *CLIP, Row('post_layernorm', last_norm(model))


def siglip(model: Any) -> tuple[Row, ...]:
    return *clip(model), *(POOLING_HEAD if model.global_pool == 'map' else ())


def dinov3(model: Any) -> tuple[Row, ...]:
    """Keys have no bias; gate and value stand apart."""
    layer = 'layer.{i}'
    return (
        Row('embeddings.cls_token', 'cls_token'),
        *([Row('embeddings.register_tokens', 'reg_token')] if model.num_reg_tokens else []),
        Row('embeddings.patch_embeddings', 'patch_embed.proj'),
        Row(f'{layer}.norm1', 'blocks.{i}.norm1'),
        Row(tuple(f'{layer}.attention.{part}_proj.weight' for part in 'qkv'), 'blocks.{i}.attn.qkv.weight'),
        *(
            Row(f'{layer}.attention.{part}_proj.bias', f'blocks.{{i}}.attn.{part}_bias')
            for part in 'qv'
            if model.qkv_bias
        ),
        Row(f'{layer}.attention.o_proj', 'blocks.{i}.attn.proj'),
        Row(f'{layer}.layer_scale1.lambda1', 'blocks.{i}.gamma_1'),
        Row(f'{layer}.norm2', 'blocks.{i}.norm2'),
        Row(f'{layer}.mlp.gate_proj', 'blocks.{i}.mlp.fc1_g'),
        Row(f'{layer}.mlp.up_proj', 'blocks.{i}.mlp.fc1_x' if model.swiglu_mlp else 'blocks.{i}.mlp.fc1'),
        Row(f'{layer}.mlp.down_proj', 'blocks.{i}.mlp.fc2'),
        Row(f'{layer}.layer_scale2.lambda1', 'blocks.{i}.gamma_2'),
        Row('norm', 'norm'),
    )


def dinov3_constants(model: Any) -> dict[str, np.ndarray]:
    """A mask token, and no registers where there are none."""
    none = {} if model.num_reg_tokens else {'embeddings.register_tokens': np.zeros((1, 0, model.embed_dim))}
    return {'embeddings.mask_token': np.zeros((1, 1, model.embed_dim)), **none}


def beit(model: Any) -> tuple[Row, ...]:
    """Keys have no bias; positions may be biases of each block or of all together."""
    inside, table = f'{BLOCK}.attention.attention', 'relative_position_bias_table'
    behind = model.global_pool == 'avg' if model.use_fc_norm is None else model.use_fc_norm
    return (
        Row(tuple(f'{inside}.{part}.weight' for part in QKV), 'blocks.{i}.attn.qkv.weight'),
        Row(f'{inside}.query.bias', 'blocks.{i}.attn.q_bias'),
        Row(f'{inside}.value.bias', 'blocks.{i}.attn.v_bias'),
        Row(f'{inside}.relative_position_bias.{table}', f'blocks.{{i}}.attn.{table}'),
        Row(f'encoder.relative_position_bias.{table}', f'rel_pos_bias.{table}'),
        Row(f'{BLOCK}.lambda_1', 'blocks.{i}.gamma_1'),
        Row(f'{BLOCK}.lambda_2', 'blocks.{i}.gamma_2'),
        *(row for row in VIT if not isinstance(row.theirs, tuple)),
        Row('pooler.layernorm', 'fc_norm') if behind else Row('layernorm', 'norm'),
    )


BEIT_MODULES = (
    Row('shared_position_bias', 'encoder.relative_position_bias'),
    Row('layers.{i}.relative_position_bias', f'{BLOCK}.attention.attention.relative_position_bias'),
    *VIT_MODULES,
)


def mae(model: Any) -> tuple[Row, ...]:
    """The encoder of our objective; its decoder stands beside it."""
    return tuple(Row(row.theirs, f'encoder.{row.ours}') for row in (*VIT, Row('layernorm', 'norm')))


def vat_siglip(model: Any) -> tuple[Row, ...]:
    """Of vit-pytorch's own SigLIP, the image encoder of its VAT."""
    height, width = model.grid.patch
    flat = Rearrange('d c h w -> d (h w c)', (('h', height), ('w', width)))
    layer = 'encoder.layers.{i}'
    return (
        Row('embeddings.patch_embedding.weight', 'to_patch_embed.1.weight', flat),
        Row('embeddings.patch_embedding.bias', 'to_patch_embed.1.bias'),
        Row('embeddings.position_embedding.weight', 'pos_embed'),
        Row(f'{layer}.layer_norm1', 'layers.{i}.0.norm'),
        Row(f'{layer}.self_attn.q_proj', 'layers.{i}.0.to_q'),
        Row((f'{layer}.self_attn.k_proj', f'{layer}.self_attn.v_proj'), 'layers.{i}.0.to_kv'),
        Row(f'{layer}.self_attn.out_proj', 'layers.{i}.0.to_out.0'),
        Row(f'{layer}.layer_norm2', 'layers.{i}.1.0'),
        Row(f'{layer}.mlp.fc1', 'layers.{i}.1.1'),
        Row(f'{layer}.mlp.fc2', 'layers.{i}.1.3'),
        Row('post_layernorm', 'norm'),
    )


def spelling(name: str, array: Any) -> tuple[str, Any]:
    """Name and array of a Flax module there in PyTorch's form; those of PyTorch as they are."""
    if '/' not in name or '.' in name:
        return name, array
    above, _, leaf = name.rpartition('/')
    if leaf == 'kernel' and array is not None and array.ndim in (2, 4):
        array = kernel_op(array.ndim).to_torch(array)
    leaf = 'weight' if leaf in ('kernel', 'scale', 'embedding') else leaf
    return f'{above}.{leaf}'.replace('/', '.'), array


ANY = {'qk_scale': (None,), 'pool_include_prefix': (False,), 'norm': ('layer',), 'pos_embed': ('learn',)}
PLAIN = {**ANY, 'pre_norm': (False,), 'init_values': (None,), 'mlp': ('mlp',), 'embed_norm': (False,)}
WITH_CLASS = {**PLAIN, 'class_token': (True,)}
# The head of Dinov2ForImageClassification reads the class token and the mean of the patches side by side.
WITH_SCALE = {
    **ANY,
    'pre_norm': (False,),
    'class_token': (True,),
    'distilled': (False,),
    'init_values': GIVEN,
    'mlp': ('mlp', 'swiglu_packed'),
    'num_classes': (0,),
    'representation_size': (None,),
}


def of_vision_transformer(title: str, *marks: str, **fields: Any) -> Family:
    return Family(title, 'VisionTransformer', marks, spelling=spelling, **fields)


BEIT = f'{BLOCK}.lambda_1', 'layers.{i}.lambda_1'
FAMILIES = (
    of_vision_transformer(
        'ViT',
        'embeddings.cls_token',
        'embeddings.patch_embeddings.projection',
        'layernorm',
        absent=('embeddings.distillation_token', f'{BLOCK}.layer_scale1', *BEIT),
        rows=vit,
        also=('ViTMSN', "ViTMAE's encoder"),
        heads=lambda model: HEAD,
        prefix='vit.',
        requires={**WITH_CLASS, 'distilled': (False,), 'reg_tokens': (0,)},
        head_requires={'global_pool': ('token',), 'representation_size': (None,)},
        # of ViTMSNForImageClassification transformers 5 writes some names without the prefix
        vintages=VIT_MODULES,
        left_out=('pooler', 'embeddings.mask_token', 'decoder'),
        positions=1,
    ),
    of_vision_transformer(
        'DeiT',
        'embeddings.distillation_token',
        'embeddings.patch_embeddings.projection',
        'layernorm',
        rows=deit,
        heads=lambda model: (
            Row('cls_classifier' if model.distilled else 'classifier', 'head'),
            Row('distillation_classifier', 'head_dist'),
        ),
        prefix='deit.',
        requires={**WITH_CLASS, 'reg_tokens': (0, 1)},
        head_requires={'global_pool': ('token',), 'representation_size': (None,)},
        vintages=VIT_MODULES,
        left_out=('pooler', 'embeddings.mask_token', 'decoder'),
        positions=2,
    ),
    of_vision_transformer(
        'Dinov2',
        'embeddings.cls_token',
        f'{BLOCK}.layer_scale1',
        'layernorm',
        absent=('embeddings.register_tokens',),
        rows=dinov2,
        prefix='dinov2.',
        requires={**WITH_SCALE, 'reg_tokens': (0,)},
        vintages=DINOV2_MODULES,
        constants=lambda model: {'embeddings.mask_token': np.zeros((1, model.embed_dim))},
        positions=1,
    ),
    of_vision_transformer(
        'Dinov2WithRegisters',
        'embeddings.register_tokens',
        f'{BLOCK}.layer_scale1',
        'layernorm',
        rows=dinov2,
        prefix='dinov2_with_registers.',
        requires={**WITH_SCALE, 'reg_tokens': GIVEN},
        vintages=DINOV2_MODULES,
        constants=lambda model: {'embeddings.mask_token': np.zeros((1, model.embed_dim))},
        positions=1,
    ),
    Family(
        'DINOv3ViT',
        'Eva',
        ('embeddings.register_tokens', 'embeddings.patch_embeddings', 'norm'),
        dinov3,
        absent=('embeddings.position_embeddings',),
        spelling=spelling,
        requires={
            'class_token': (True,),
            'use_abs_pos_emb': (False,),
            'use_rot_pos_emb': (True,),
            'rope_type': ('dinov3',),
            'rope_rotate_half': (True,),
            'rope_grid_offset': (0.0,),
            'rope_grid_indexing': ('ij',),
            'attn_type': ('eva',),
            'qkv_fused': (True,),
            'init_values': GIVEN,
            'attn_only_layer_scale': (False,),
            'use_post_norm': (False,),
            'num_classes': (0,),
            'norm': ('layer',),
        },
        vintages=(Row('model.layer.{i}', 'layer.{i}'),),
        left_out_zero=('layer.{i}.attention.q_proj.bias', 'layer.{i}.attention.v_proj.bias'),
        constants=dinov3_constants,
    ),
    Family(
        'BEiT',
        'Beit',
        ('embeddings.cls_token', 'embeddings.patch_embeddings.projection', BEIT),
        beit,
        heads=lambda model: HEAD,
        prefix='beit.',
        spelling=spelling,
        requires={
            'init_values': GIVEN,
            'swiglu_mlp': (False,),
            'scale_mlp': (False,),
            'norm': ('layer',),
            'global_pool': ('avg', 'token'),
        },
        vintages=BEIT_MODULES,
        left_out=(
            'embeddings.mask_token',
            f'{BLOCK}.attention.attention.relative_position_bias.relative_position_index',
            'encoder.relative_position_bias.relative_position_index',
        ),
    ),
    of_vision_transformer(
        'IJepa',
        'embeddings.position_embeddings',
        'embeddings.patch_embeddings.projection',
        'layernorm',
        absent=('embeddings.cls_token', f'{BLOCK}.layer_scale1', *BEIT),
        rows=vit,
        heads=lambda model: HEAD,
        prefix='ijepa.',
        requires={**PLAIN, 'class_token': (False,), 'reg_tokens': (0,), 'global_pool': ('', 'avg', 'avgmax', 'max')},
        head_requires={'global_pool': ('avg',), 'fc_norm': (False,), 'representation_size': (None,)},
        vintages=VIT_MODULES,
        left_out=('pooler', 'embeddings.mask_token'),
    ),
    of_vision_transformer(
        'CLIP',
        'embeddings.class_embedding',
        'pre_layrnorm',
        'post_layernorm',
        rows=clip,
        heads=lambda model: (Row('visual_projection', 'head'),),
        prefix='vision_model.',
        requires={**ANY, 'pre_norm': (True,), 'class_token': (True,), 'init_values': (None,), 'mlp': ('mlp',)},
        head_requires={'global_pool': ('token',)},
        left_out=('embeddings.position_ids', 'text_model', 'text_projection', 'logit_scale'),
        implied={'head.bias': 'head.weight'},
        positions=1,
    ),
    of_vision_transformer(
        'SigLIP',
        'embeddings.patch_embedding',
        'embeddings.position_embedding',
        'post_layernorm',
        absent=('embeddings.class_embedding',),
        rows=siglip,
        heads=lambda model: HEAD,
        prefix='vision_model.',
        requires={**PLAIN, 'class_token': (False,), 'reg_tokens': (0,), 'representation_size': (None,)},
        head_requires={'global_pool': ('avg',), 'fc_norm': (False,)},
        left_out=('embeddings.position_ids', 'head', 'text_model', 'logit_scale', 'logit_bias'),
    ),
    Family(
        'ViTMAE',
        'MAE',
        ('embeddings.cls_token', 'embeddings.patch_embeddings.projection', 'layernorm'),
        mae,
        absent=('embeddings.distillation_token', f'{BLOCK}.layer_scale1', *BEIT),
        spelling=spelling,
        heads=lambda model: DECODER,
        prefix='vit.',
        requires={'class_token': (True,), 'decoder_positions': ('learned',), 'decoder_qkv_bias': (True,)},
        vintages=(*VIT_MODULES, *DECODER_MODULES),
    ),
    Family(
        'SigLIP',
        'SigLIP',
        ('embeddings.patch_embedding', 'embeddings.position_embedding', 'post_layernorm'),
        vat_siglip,
        absent=('embeddings.class_embedding',),
        spelling=spelling,
        left_out=('embeddings.position_ids', 'head'),
    ),
)

# Activations of configurations, and ours.
ACTIVATIONS = {
    'gelu': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'quick_gelu': 'quick_gelu',
    'silu': 'silu',
    'swish': 'silu',
}


def _vit_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    width = config.get('pooler_output_size') or config['hidden_size']
    return {'representation_size': width} if config['has_pooler'] else {}


def _deit_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    teacher = any('WithTeacher' in name for name in config.get('architectures') or ())
    return _vit_arguments(config) | ({'distilled': True} if teacher else {'reg_tokens': 1})


def _no_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _dinov2_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {'init_values': config.get('layerscale_value', 1.0), 'num_classes': 0}
    ratio, width = config.get('mlp_ratio', 4), config['hidden_size']
    arguments |= {'reg_tokens': config.get('num_register_tokens', 0), 'mlp_ratio': float(ratio)}
    if config.get('use_swiglu_ffn', False):
        # two thirds of the hidden width, in steps of 8, twice: gates and values
        hidden = 2 * ((int(int(width * ratio) * 2 / 3) + 7) // 8 * 8)
        arguments |= {'mlp': 'swiglu_packed', 'act': 'silu', 'mlp_ratio': mlp_ratio_of(hidden, width)}
    return arguments


def _dinov3_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    biases = [config.get(f'{part}_bias', part != 'key') for part in ('query', 'key', 'value', 'proj', 'mlp')]
    if biases[1] or biases[0] != biases[2] or not all(biases[3:]):
        raise ValueError('biases of keys, of queries or values alone, or of no projections are not built here')
    gated = {'swiglu_mlp': True, 'swiglu_align_to': 8} if config.get('use_gated_mlp', False) else {}
    return dict(
        gated,
        qkv_bias=biases[0],
        num_classes=0,
        num_reg_tokens=config.get('num_register_tokens', 0),
        init_values=config.get('layerscale_value', 1.0),
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        use_fc_norm=False,
        rope_type='dinov3',
        rope_rotate_half=True,
        rope_temperature=config.get('rope_theta', 100.0),
    )


def _beit_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return dict(
        init_values=config.get('layer_scale_init_value', 0.1),
        global_pool='avg' if config.get('use_mean_pooling', True) else 'token',
        use_abs_pos_emb=config.get('use_absolute_position_embeddings', False),
        use_rel_pos_bias=config.get('use_relative_position_bias', False),
        use_shared_rel_pos_bias=config.get('use_shared_relative_position_bias', False),
    )


def _ijepa_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {'class_token': False, 'global_pool': 'avg', 'fc_norm': False}


def _clip_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    projected = any(name.endswith(('WithProjection', 'CLIPModel')) for name in config.get('architectures') or ())
    return {'pre_norm': True, 'num_classes': config.get('projection_dim', 512) if projected else 0}


def _siglip_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    # SiglipForImageClassification does without the pooling head that it has
    pooled = config.get('vision_use_head', True) and not config['classified']
    pooling = {'global_pool': 'map'} if pooled else {'global_pool': 'avg', 'fc_norm': False}
    return {'class_token': False, **pooling}


# `model_type` of a configuration: its arguments, epsilon, activation and image size where it does not say.
TYPES: dict[str, tuple[Callable[[Mapping[str, Any]], dict[str, Any]], float, str, int]] = {
    'vit': (_vit_arguments, 1e-12, 'gelu', 224),
    'deit': (_deit_arguments, 1e-12, 'gelu', 224),
    'vit_mae': (_no_arguments, 1e-12, 'gelu', 224),
    'vit_msn': (_no_arguments, 1e-6, 'gelu', 224),
    'dinov2': (_dinov2_arguments, 1e-6, 'gelu', 224),
    'dinov2_with_registers': (_dinov2_arguments, 1e-6, 'gelu', 224),
    'dinov3_vit': (_dinov3_arguments, 1e-5, 'gelu', 224),
    'beit': (_beit_arguments, 1e-12, 'gelu', 224),
    'ijepa': (_ijepa_arguments, 1e-12, 'gelu', 224),
    'clip_vision_model': (_clip_arguments, 1e-5, 'quick_gelu', 224),
    'siglip_vision_model': (_siglip_arguments, 1e-6, 'gelu_pytorch_tanh', 224),
}


class HuggingFace(Source):
    """Hugging Face's names, whose arguments are in a file of their own."""

    def configuration(self, given: Mapping[str, Any], names: Iterable[str] = ()) -> Configuration:
        """Name and arguments for `create_model` of the fields of a `config.json`.

        Args:
          given: the fields.
          names: of the arrays beside it, which alone tell whether a ViTModel has a pooler; with one if left out.

        Raises:
          ValueError: of a model that is none of these, or with an activation that we do not have.
        """
        try:
            return self._configuration(given, names)
        except (AttributeError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f'the configuration does not tell the arguments: {error}') from error

    def _configuration(self, given: Mapping[str, Any], names: Iterable[str]) -> Configuration:
        config, kind = given, given.get('model_type')
        if 'vision_config' in given:  # of CLIP and SigLIP as a whole
            config = {**given['vision_config'], 'architectures': given.get('architectures')}
            # the part has a width of its own, which is not that of the whole
            config['projection_dim'] = given.get('projection_dim', 512)
            config |= {key: given[key] for key in ('id2label', 'num_labels') if key in given}
            kind = config.get('model_type') or f'{kind}_vision_model'
            kind = f'{kind}_vision_model' if kind in ('clip', 'siglip') else kind
        if not isinstance(kind, str) or kind not in TYPES:
            raise ValueError(f'model_type={kind!r} is none of {", ".join(TYPES)}')
        arguments, epsilon, act, size = TYPES[kind]
        act = config.get('hidden_act', act)
        if act not in ACTIVATIONS:
            raise ValueError(f'hidden_act={act!r} is none of {", ".join(ACTIVATIONS)}')
        width = config.get('hidden_size', 768)
        hidden = config.get('intermediate_size', 3072)
        classes = len(config.get('id2label') or {}) or config.get('num_labels', 2)
        architectures = config.get('architectures') or ()
        classified = any('Classification' in name for name in architectures)
        patch = config.get('patch_size', 16)
        kwargs = dict(
            img_size=_size(config.get('image_size', size)),
            patch_size=_size(patch),
            in_chans=config.get('num_channels', 3),
            num_classes=classes if classified else 0,
            embed_dim=width,
            depth=config.get('num_hidden_layers', 12),
            num_heads=config.get('num_attention_heads', 12),
            mlp_ratio=mlp_ratio_of(hidden, width),
            act=ACTIVATIONS[act],
            norm_eps=config.get('layer_norm_eps', epsilon),
            qkv_bias=config.get('qkv_bias', True),
        )
        names = [*names]
        poolers = [name for name in names if name.endswith(('pooler.dense.weight', 'pooler/dense/kernel'))]
        has_pooler = bool(poolers) if names else any(name.endswith('Model') for name in architectures)
        has_pooler = has_pooler and not classified
        told = {'hidden_size': width, 'has_pooler': has_pooler, 'classified': classified}
        kwargs |= arguments({**config, **told})
        stem = {'dinov3_vit': 'eva', 'beit': 'beit'}.get(kind, 'vision_transformer')
        if stem == 'vision_transformer':
            return stem, kwargs
        wanted = 'silu' if kwargs.get('swiglu_mlp') else 'gelu'
        if kwargs.pop('act') != wanted:
            raise ValueError(f'hidden_act={act!r} should be {wanted!r}, which is built in')
        return stem, kwargs


def _size(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


SOURCE = HuggingFace(
    'huggingface',
    "Hugging Face's transformers, PyTorch and Flax",
    FAMILIES,
    resampling=Resampling(),
)
