"""Names and layouts of Google's `.npz` files: google-research/vision_transformer, AugReg, big_vision."""

from collections.abc import Sequence
from typing import Any

from vit_flax.blocks.positions import Resampling
from vit_flax.blocks.weight_ops import KEEP, Op, kernel_op
from vit_flax.weights.rows import Rearrange, Row, match
from vit_flax.weights.source import Family, Shapes, Source, count_layers, grid_of, mlp_ratio_of

DENSE, CONVOLUTION = kernel_op(2), kernel_op(4)


def linear(theirs: str, ours: str, kernel: Op = DENSE, bias: Op = KEEP) -> tuple[Row, ...]:
    return Row(f'{theirs}/kernel', f'{ours}.weight', kernel), Row(f'{theirs}/bias', f'{ours}.bias', bias)


def norm(theirs: str, ours: str, op: Op = KEEP) -> tuple[Row, ...]:
    return Row(f'{theirs}/scale', f'{ours}.weight', op), Row(f'{theirs}/bias', f'{ours}.bias', op)


def heads_together(theirs: str, parts: Sequence[str], ours: str, heads: int) -> tuple[Row, ...]:
    """Linear maps to heads, `[d e k]` there, which are one map here."""
    kernel, bias = (Rearrange(pattern, (('e', heads),)) for pattern in ('d e k -> (e k) d', 'e k -> (e k)'))
    return (
        Row(tuple(f'{theirs}/{part}/kernel' for part in parts), f'{ours}.weight', kernel),
        Row(tuple(f'{theirs}/{part}/bias' for part in parts), f'{ours}.bias', bias),
    )


def out_of_heads(theirs: str, ours: str, heads: int) -> tuple[Row, ...]:
    return linear(f'{theirs}/out', ours, Rearrange('e k d -> d (e k)', (('e', heads),)))


def block(theirs: str, ours: str, heads: int, attention: int, mlp: int, second: int) -> tuple[Row, ...]:
    """A block, whose modules have numbers that differ between the two code bases."""
    inside = f'{theirs}/MultiHeadDotProductAttention_{attention}'
    return (
        *norm(f'{theirs}/LayerNorm_0', f'{ours}.norm1'),
        *heads_together(inside, ('query', 'key', 'value'), f'{ours}.attn.qkv', heads),
        *out_of_heads(inside, f'{ours}.attn.proj', heads),
        *norm(f'{theirs}/LayerNorm_{second}', f'{ours}.norm2'),
        *linear(f'{theirs}/MlpBlock_{mlp}/Dense_0', f'{ours}.mlp.fc1'),
        *linear(f'{theirs}/MlpBlock_{mlp}/Dense_1', f'{ours}.mlp.fc2'),
    )


def trunk(model: Any, attention: int, mlp: int, second: int) -> tuple[Row, ...]:
    """What all of them have."""
    inner = 'Transformer/encoderblock_{i}'
    return (
        *linear('embedding', 'patch_embed.proj', CONVOLUTION),
        Row('cls', 'cls_token'),
        *block(inner, 'blocks.{i}', model.num_heads, attention, mlp, second),
        *norm('Transformer/encoder_norm', 'norm'),
        *linear('pre_logits', 'pre_logits.fc'),
        *linear('head', 'head'),
    )


def vision_transformer(model: Any) -> tuple[Row, ...]:
    """google-research/vision_transformer, whose modules in a block are counted together."""
    return *trunk(model, 1, 3, 2), Row('Transformer/posembed_input/pos_embedding', 'pos_embed')


def hybrid(model: Any) -> tuple[Row, ...]:
    """The same on the features of a ResNet, whose stages and units are counted from 1."""
    ours = 'patch_embed.backbone'
    stem = f'{ours}.stem' if model.layers else ours
    rows = [Row('conv_root/kernel', f'{stem}.conv.weight', CONVOLUTION), *norm('gn_root', f'{stem}.norm')]
    for stage, count in enumerate(model.layers):
        for unit in range(count):
            theirs, block = f'block{stage + 1}/unit{unit + 1}', f'{ours}.stages.{stage}.blocks.{unit}'
            names = {f'{i}': (f'conv{i}', f'norm{i}') for i in (1, 2, 3)}
            names['_proj'] = 'downsample.conv', 'downsample.norm'
            for number, (convolution, normalisation) in names.items():
                rows.append(Row(f'{theirs}/conv{number}/kernel', f'{block}.{convolution}.weight', CONVOLUTION))
                rows += norm(f'{theirs}/gn{number}', f'{block}.{normalisation}')
    return *rows, *vision_transformer(model)


def without_unit_axes(name: str, array: Any) -> tuple[str, Any]:
    """The factors of a GroupNorm as a vector, where files have `[1 1 1 c]`."""
    if array is not None and array.ndim == 4 and array.shape[:3] == (1, 1, 1):
        array = array.reshape(-1) if '/gn' in f'/{name}' else array
    return name, array


def big_vision(model: Any) -> tuple[Row, ...]:
    """big_vision, whose modules in a block are counted by class; a head that attends has one more query."""
    attends = 'MAPHead_0/MultiHeadDotProductAttention_0'
    return (
        *trunk(model, 0, 0, 1),
        Row('pos_embedding', 'pos_embed'),
        Row('MAPHead_0/probe', 'attn_pool.latent'),
        *heads_together(attends, ['query'], 'attn_pool.q', model.num_heads),
        *heads_together(attends, ['key', 'value'], 'attn_pool.kv', model.num_heads),
        *out_of_heads(attends, 'attn_pool.proj', model.num_heads),
        *norm('MAPHead_0/LayerNorm_0', 'attn_pool.norm'),
        *linear('MAPHead_0/MlpBlock_0/Dense_0', 'attn_pool.mlp.fc1'),
        *linear('MAPHead_0/MlpBlock_0/Dense_1', 'attn_pool.mlp.fc2'),
    )


def configuration(shapes: Shapes) -> dict[str, Any]:
    """All arguments; GELU is its tanh form there, and epsilon flax's 1e-6."""
    if len(shapes['embedding/kernel']) != 4:
        raise ValueError(f'the shapes do not tell the sizes: embedding/kernel has shape {shapes["embedding/kernel"]}')
    height, breadth, channels, width = shapes['embedding/kernel']
    classic = 'Transformer/posembed_input/pos_embedding' in shapes
    table = shapes['Transformer/posembed_input/pos_embedding' if classic else 'pos_embedding']
    first, attention, mlp = 'Transformer/encoderblock_0', *((1, 3) if classic else (0, 0))
    class_token = 'cls' in shapes
    side = grid_of(table[-2] - (class_token and classic))
    pooling = 'map' if 'MAPHead_0/probe' in shapes else 'token' if class_token else 'avg'
    hidden = shapes[f'{first}/MlpBlock_{mlp}/Dense_0/kernel'][1]
    return dict(
        img_size=side * height if height == breadth else (side * height, side * breadth),
        patch_size=height if height == breadth else (height, breadth),
        in_chans=channels,
        num_classes=shapes['head/kernel'][1] if 'head/kernel' in shapes else 0,
        embed_dim=width,
        depth=count_layers(shapes, 'Transformer/encoderblock_{i}'),
        num_heads=shapes[f'{first}/MultiHeadDotProductAttention_{attention}/query/kernel'][1],
        mlp_ratio=mlp_ratio_of(hidden, width),
        representation_size=shapes['pre_logits/kernel'][1] if 'pre_logits/kernel' in shapes else None,
        class_token=class_token,
        no_embed_class=class_token and not classic,
        global_pool=pooling,
        fc_norm=False,
        act='gelu_tanh',
    )


def hybrid_configuration(shapes: Shapes) -> dict[str, Any]:
    """The same with the ResNet's stages; the image from the patches, which are of its feature map."""
    stages = max([int(found['i']) for name in shapes if (found := match('block{i}/unit1', name))], default=0)
    layers = tuple(
        max(int(found['i']) for name in shapes if (found := match(f'block{stage + 1}/unit{{i}}', name)))
        for stage in range(stages)
    )
    sizes = configuration(shapes)
    widths = tuple(shapes[f'block{stage + 1}/unit1/conv3/kernel'][3] for stage in range(stages))
    return sizes | dict(
        img_size=sizes['img_size'] * 4 * 2 ** max(stages - 1, 0),
        in_chans=shapes['conv_root/kernel'][2],
        stem_chs=shapes['conv_root/kernel'][3],
        layers=layers,
        widths=widths or (256, 512, 1024, 2048),
    )


ALL = {
    'fc_norm': (None, False),
    'reg_tokens': (0,),
    'distilled': (False,),
    'pre_norm': (False,),
    'pos_embed': ('learn',),
    'qkv_bias': (True,),
    'proj_bias': (True,),
    'qk_scale': (None,),
    'norm': ('layer',),
    'mlp': ('mlp',),
    'final_norm': (True,),
}
MARKS, STACK = ('embedding/kernel', 'Transformer/encoder_norm'), 'Transformer/encoderblock'

SOURCE = Source(
    'google',
    "Google's .npz: vision_transformer, AugReg, big_vision, SigLIP",
    (
        Family(
            'hybrid',
            'HybridVisionTransformer',
            (*MARKS, 'conv_root/kernel', 'Transformer/posembed_input/pos_embedding'),
            hybrid,
            requires={**ALL, 'class_token': (True,), 'global_pool': ('token',), 'no_embed_class': (False,)},
            stack=STACK,
            spelling=without_unit_axes,
            positions=1,
            configuration=hybrid_configuration,
        ),
        Family(
            'vision_transformer',
            'VisionTransformer',
            (*MARKS, 'Transformer/posembed_input/pos_embedding'),
            vision_transformer,
            absent=('conv_root/kernel',),
            requires={**ALL, 'class_token': (True,), 'global_pool': ('token',), 'no_embed_class': (False,)},
            stack=STACK,
            positions=1,
            configuration=configuration,
        ),
        Family(
            'big_vision',
            'VisionTransformer',
            (*MARKS, 'pos_embedding'),
            big_vision,
            requires={**ALL, 'global_pool': ('token', 'map', 'avg'), 'fc_norm': (None, False)},
            prefix='params/',
            always_prefixed=True,
            stack=STACK,
            positions=0,
            configuration=configuration,
        ),
    ),
    resampling=Resampling('bilinear'),
)
