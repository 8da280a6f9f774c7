"""VAT: Vision Action Transformer by Unlocking Full Representation of ViT, arXiv:2512.06013.

vit-pytorch's `vat`: what a robot is to do next is read from every layer of a ViT and not from its last alone.
Learned action tokens run through blocks of their own, each of which attends to the tokens of one layer of the
ViT, of all views and frames; task, advantage and the state of the robot can be given beside the images.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal, zeros

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.grids import Grid, TokenGrid, image_grid
from vit_flax.blocks.module import Module, example_inputs
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import multiply, repeat, to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import FeedForward, Remat, Transformer
from vit_flax.blocks.weight_ops import Inverse, UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.vit import ViTBase

SMALL_NORMAL = normal(1e-2)


class Attention(Module):
    """Tokens attend to themselves or to a context, `[b n d], [b m c] -> [b n d]`.

    What each head returns is multiplied by a gate that the asking token sets (arXiv:2505.06708).

    Attributes:
      norm: constructor of the norms before the projections; takes a name.
    """

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0
    norm: Callable[..., Any] = LayerNorm

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = self.norm(**self.precision, name='norm')(x)
        seen = x if context is None else self.norm(**self.precision, name='context_norm')(context)
        kv = self.project(2 * inner, 'to_kv')(seen)
        q, k, v = (split_heads(t, self.heads) for t in (self.project(inner, 'to_q')(x), *jnp.split(kv, 2, axis=-1)))
        scale = self.dim_head**-0.5
        read = attend(self, q, k, v, scale=scale, dropout=self.map_dropout, train=train)
        read = merge_heads(multiply(read, self.gates(x)))
        if not self.projects(dim):
            return read
        out = Dense(dim, **self.precision, name='to_out')(read)
        return nn.Dropout(self.dropout, name='dropout')(out, deterministic=not train)

    def project(self, features: int, name: str) -> nn.Module:
        """To queries, or to keys and values."""
        return Dense(features, use_bias=False, **self.precision, name=name)

    def gates(self, x: Array) -> Array | float:
        """What multiplies each head, `[b n d] -> [b e n 1]`."""
        gates = jax.nn.sigmoid(to_float32(Dense(self.heads, **self.precision, name='to_gates')(x)))
        return rearrange(gates, 'b n e -> b e n 1')

    @property
    def map_dropout(self) -> float:
        """Rate of dropout on the maps."""
        return self.dropout

    def projects(self, dim: int) -> bool:
        """Whether heads are projected to tokens of this width."""
        return self.heads != 1 or self.dim_head != dim

    torch_names = {'to_gates': 'to_out_gates.0', 'to_out': 'to_out.0'}


class FiLM(Module):
    """A factor and an offset for each channel, read from a condition (arXiv:1709.07871).

    Attributes:
      around_one: the predicted scale is added to one.
    """

    around_one: bool = False

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        """Args: x `[b n d]`; condition `[b c]`. Returns `[b n d]`."""
        linear = Dense(2 * x.shape[-1], kernel_init=zeros, bias_init=zeros, **self.precision, name='to_gamma_beta')
        gamma, beta = jnp.split(linear(condition)[:, None], 2, axis=-1)
        # upstream: the factors start at zero and not, as is usual, at one: a fresh model that is given a task forgets
        # all its tokens in every block, so that all steps of its actions are the same. `film_around_one=True` adds the
        # one.
        return x * (gamma + 1 if self.around_one else gamma) + beta

    torch_names = {'to_gamma_beta': 'to_gamma_beta.0'}


class ActionBlock(Module):
    """FiLM task conditioning, cross-attention to each modality, self-attention, feed-forward; all residual except FiLM.

    Attributes:
      cross_attention, feedforward: constructors; take a name.
      self_attention: constructor of the attention among the tokens, or None.
      film: constructor of what lets the task in, or None.
    """

    cross_attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    self_attention: Callable[..., nn.Module] | None = None
    film: Callable[..., nn.Module] | None = None

    # the modalities, in the order of their cross-attentions
    modalities: ClassVar[tuple[str, ...]] = ('image',)

    @nn.compact
    def __call__(self, x: Array, task: Array | None = None, train: bool = False, **context: Array) -> Array:
        """Args: x `[b n d]`; task `[b d]`; context: for each modality `[b m c]`."""
        if self.film is not None and task is not None:
            x = self.film(name='film')(x, task)
        for sense in self.modalities:
            x = x + self.cross_attention(name=f'{sense}_attention')(x, context[sense], train=train)
        if self.self_attention is not None:
            x = x + self.self_attention(name='self_attention')(x, train=train)
        x = x + self.feedforward(name='feedforward')(x, train=train)
        return self.tap('block', x)

    torch_names = {'film': '0', 'self_attention': '1', 'image_attention': '2', 'feedforward': '3'}


class ViT(ViTBase, kw_only=True):
    """A ViT with gated heads and registers: images `[b h w c]` to logits `[b num_classes]`, or all its layers.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      pool: 'cls' classifies the class token, 'mean' the average of the patches.
      num_register_tokens: further learned tokens, before all others (arXiv:2309.16588).
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_register_tokens: int = 0
    scan: bool = False
    remat: Remat = False
    pool: str = 'cls'

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_prefix_positions(self) -> int:
        return 0

    @property
    def num_prefix_tokens(self) -> int:
        return self.num_register_tokens + 1

    def setup(self) -> None:
        super().setup()
        if self.num_register_tokens:
            shape = self.num_register_tokens, self.dim
            self.register_tokens = self.param('register_tokens', SMALL_NORMAL, shape, self.param_dtype)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens, `[b h w c] -> [b n d]`: registers, class token, patches with positions."""
        x = self.prepend(self.cls_token, self.add_positions(self.patch_tokens(images)))
        if self.num_register_tokens:
            x = self.prepend(self.register_tokens, x)
        return self.tap('embedding', self.embedding_dropout(x, deterministic=not train))

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        first = self.num_register_tokens
        return tokens[:, first] if self.pool == 'cls' else tokens[:, first + 1 :].mean(axis=1)

    def __call__(self, images: Array, train: bool = False, return_hiddens: bool = False) -> Any:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: dropout.
          return_hiddens: return the encoded tokens `[b n d]`, and what entered each block `[depth b n d]`, instead.
        """
        if not return_hiddens:
            return super().__call__(images, train)
        tokens, hiddens = self.transformer(self.embed(images, train), train=train, return_hiddens=True)
        if self.is_initializing() and self.num_classes > 0:
            self.classify(tokens)
        return tokens, hiddens

    torch_names = {'cls_token': ('cls_token', Inverse(UnitAxes((0,))))}
    # upstream: without registers the state dict still holds them, of no rows.
    torch_only = {
        'register_tokens': lambda model: None if model.num_register_tokens else np.zeros((0, model.dim), np.float32)
    }


class ActionTransformer(Backbone, kw_only=True):
    """What the three models have in common: the action tokens, all that is given beside them, and their blocks.

    A model builds its encoders and gives each block a context of each modality.

    Attributes:
      dim: width of an action token.
      depth: number of blocks.
      heads: heads of the cross-attention to a modality.
      dim_head: width of one of them.
      dim_action: width of an action.
      mlp_dim: hidden width of the feed-forward networks.
      num_tasks: number of tasks; None for a model without.
      dim_extra_token: width of the further tokens that can be given, such as proprioception.
      num_register_tokens: further learned tokens (arXiv:2309.16588).
      action_chunk_len: actions that are predicted at once.
      time_seq_len: frames in a video; 1 for images.
      dropout: rate after each projection and on the attention maps.
      add_self_attn: whether the tokens of a block attend to each other, which the paper's do not.
      self_attn_heads: heads of that attention.
      self_attn_dim_head: width of one of them.
      vit_layer_indices: for each block, which layer of the ViT it attends to: 0 are the embedded patches, the ViT's
        depth are its encoded and normalised tokens. One after the other from 0 on if None.
      num_advantage_bins: number of advantage classes that actions are conditioned on; 0 for none.
      film_around_one: scale by one plus the learned factor instead of the factor itself.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    dim: int
    depth: int
    heads: int
    dim_head: int
    dim_action: int
    mlp_dim: int
    num_tasks: int | None = None
    dim_extra_token: int | None = None
    num_register_tokens: int = 4
    action_chunk_len: int = 7
    time_seq_len: int = 1
    dropout: float = 0.0
    add_self_attn: bool = True
    self_attn_heads: int = 4
    self_attn_dim_head: int = 32
    # upstream: the last block of a ViT as deep as the model is not read unless this says so: its layers count from the
    # embedded patches on.
    vit_layer_indices: Sequence[int] | None = None
    num_advantage_bins: int = 0
    film_around_one: bool = False
    scan: bool = False
    remat: Remat = False

    head = ()
    taps_latent = False

    @property
    def layout(self) -> str:
        return 'b v t h w c'

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        return self.build_vision(parent=None).token_grids(lengths[-2:])

    @property
    def image_views(self) -> int | None:
        """Number of views with learned view embeddings, or None."""
        raise NotImplementedError

    @property
    def block(self) -> Callable[..., nn.Module]:
        """Constructor of a block: `block(cross_attention, feedforward, self_attention, film)`."""
        return ActionBlock

    def setup(self) -> None:
        self.vision = self.build_vision(**self.precision, name='vit')
        self.vision_layers = self.layers_of('vit', self.vision, self.vit_layer_indices)
        if self.time_seq_len > 1:
            self.time_pos_emb = self.learned('time_pos_emb', self.time_seq_len, self.vision.dim)
        if self.image_views is not None and self.image_views > 1:
            self.view_emb = self.learned('view_emb', self.image_views, self.vision.dim)
        if self.num_tasks is not None:
            self.task_emb = self.learned('task_emb', self.num_tasks, self.dim)
        if self.num_register_tokens:
            self.register_tokens = self.learned('register_tokens', self.num_register_tokens, self.dim)
        self.action_pos_emb = self.learned('action_pos_emb', self.action_chunk_len, self.dim)
        if self.num_advantage_bins > 0:
            shape = self.num_advantage_bins + 1, self.dim
            self.advantage_emb = self.param('advantage_emb', normal(1.0), shape, self.param_dtype)
        if self.dim_extra_token is not None:
            self.to_extra_token = Dense(self.dim, **self.precision)
        block = partial(self.block, *self.branches(), **self.precision)
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        self.final_norm = LayerNorm(**self.precision)
        self.to_pred_action = Dense(self.dim_action, use_bias=False, **self.precision)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'time_pos_emb': PositionTable((self.time_seq_len,))} if self.time_seq_len > 1 else {}

    def learned(self, name: str, rows: int, dim: int) -> Array:
        """Learned vectors, `[rows dim]`."""
        return self.param(name, SMALL_NORMAL, (rows, dim), self.param_dtype)

    def build_vision(self, **settings: Any) -> Any:
        """The image encoder; `settings` apply only if it is built from keyword arguments."""
        raise NotImplementedError

    def branches(self) -> tuple[Callable[..., nn.Module] | None, ...]:
        """Constructors of what a block is made of."""
        attention = partial(Attention, dropout=self.dropout, **self.precision)
        among = partial(attention, self.self_attn_heads, self.self_attn_dim_head) if self.add_self_attn else None
        feedforward = partial(FeedForward, self.mlp_dim, self.dropout, **self.precision)
        return partial(attention, self.heads, self.dim_head), feedforward, among, self.film()

    def film(self) -> Callable[..., nn.Module] | None:
        """Constructor of the task conditioning of a block."""
        return None if self.num_tasks is None else partial(FiLM, self.film_around_one, **self.precision)

    def layers_of(self, name: str, model: Any, indices: Sequence[int] | None) -> np.ndarray:
        """The encoder layer that each block attends to, `[depth]`."""
        argument = f'{name}_layer_indices'
        if indices is None and model.depth != self.depth:
            raise ValueError(
                f'depth={self.depth} is not the depth of {name}, {model.depth}: say with {argument} which of its '
                'layers each block attends to'
            )
        chosen = tuple(range(self.depth)) if indices is None else tuple(indices)
        if len(chosen) != self.depth or not all(-model.depth <= index + 1 <= model.depth + 1 for index in chosen):
            raise ValueError(
                f'{argument}={chosen} must be depth={self.depth} numbers from 0 to {model.depth}, the depth of {name}'
            )
        return np.array(chosen, int)

    def trajectory(self, model: Any, layers: np.ndarray, x: Array, train: bool, freeze: bool) -> Array:
        """The layers of a model that the blocks attend to, `[l b n d]`, from its input with views as further batch."""
        tokens, hiddens = model(x, train=train, return_hiddens=True)
        every = [*hiddens, tokens]
        wanted = jnp.stack([every[layer] for layer in layers])
        return jax.lax.stop_gradient(wanted) if freeze else wanted

    def with_all_axes(self, video: Array) -> Array:
        """Images or videos as `[b v t h w c]`."""
        # upstream: images without an axis of views end in an error of einops, whose pattern lacks its right side; here
        # they are taken, as upstream's comments say they are.
        if self.time_seq_len == 1 and video.ndim in (4, 5):
            video = video[:, None, None] if video.ndim == 4 else video[:, :, None]
        layout = 'b v t h w c' if self.time_seq_len > 1 else 'b h w c] or [b v h w c'
        if video.ndim != 6:
            raise ValueError(f'expected input of layout [{layout}], got shape {video.shape} with {video.ndim} axes')
        if video.shape[2] != self.time_seq_len:
            raise ValueError(f'videos of {video.shape[2]} frames: time_seq_len={self.time_seq_len} must be as many')
        return video

    def check_views(self, views: int) -> None:
        """Raises if there are not as many views as there are embeddings of them."""
        if views != self.image_views:
            raise ValueError(f'images of {views} views: they must be {self.image_views}, as the model is built for')

    def encode_views(self, video: Array, train: bool = False, freeze: bool = False) -> Array:
        """The image context of each block, from all views and frames, `[b v t h w c] -> [l b m c]`."""
        video = self.with_all_axes(video)
        _, views, frames = video.shape[:3]
        images = rearrange(video, 'b v t h w c -> (b v t) h w c')
        seen = self.trajectory(self.vision, self.vision_layers, images, train, freeze)
        seen = rearrange(seen, 'l (b v t) n d -> l b v t n d', v=views, t=frames)
        if self.time_seq_len > 1:
            seen, times = self.promote(seen, self.time_pos_emb)
            seen = seen + rearrange(times, 't d -> t 1 d')
        if self.image_views is not None and self.image_views > 1:
            self.check_views(views)
            seen, positions = self.promote(seen, self.view_emb)
            seen = seen + rearrange(positions, 'v d -> v 1 1 d')
        return rearrange(seen, 'l b v t n d -> l b (v t n) d')

    def example_video(self) -> jax.ShapeDtypeStruct:
        """A video of all views and frames that fits, for tracing."""
        (images,) = example_inputs(self.build_vision(parent=None))
        return jax.ShapeDtypeStruct((1, self.image_views or 1, self.time_seq_len, *images.shape[1:]), images.dtype)

    def action_tokens(self, batch: int, advantages: Any = None, extra: Array | None = None) -> tuple[Array, int]:
        """Registers, advantage, action tokens and further tokens, `[b n d]`; and the index of the first action."""
        before = [repeat(self.register_tokens, 'n d -> b n d', b=batch)] if self.num_register_tokens else []
        if advantages is not None and self.num_advantage_bins > 0:
            kinds = jnp.broadcast_to(jnp.asarray(advantages), (batch,))
            before.append(look_up(self.advantage_emb, kinds + 1, from_end=False)[:, None])
        after = []
        if extra is None and self.is_initializing() and self.dim_extra_token is not None:
            extra = jnp.zeros((batch, self.dim_extra_token), self.param_dtype)
        if extra is not None:
            if self.dim_extra_token is None or extra.shape[-1] != self.dim_extra_token:
                raise ValueError(
                    f'extra of shape {extra.shape} must have dim_extra_token={self.dim_extra_token} channels'
                )
            token = self.to_extra_token(extra)
            after.append(token[:, None] if token.ndim == 2 else token)
        tokens = [*before, repeat(self.action_pos_emb, 'n d -> b n d', b=batch), *after]
        return self.tap('embedding', jnp.concatenate(self.promote(*tokens), axis=1)), sum(x.shape[1] for x in before)

    def embed_task(self, batch: int, tasks: Array | None) -> Array | None:
        """Indices of tasks to their vectors, `[b] -> [b d]`."""
        if tasks is not None and self.num_tasks is None:
            raise ValueError('tasks are given: num_tasks=None must be their number')
        if tasks is None and self.is_initializing() and self.num_tasks is not None:
            tasks = jnp.zeros((batch,), jnp.int32)
        return None if tasks is None else look_up(self.task_emb, jnp.asarray(tasks))

    def act(
        self,
        batch: int,
        context: Mapping[str, Array],
        *,
        extra: Array | None,
        tasks: Array | None,
        advantages: Any,
        actions: Array | None,
        return_hiddens: bool,
        train: bool,
    ) -> Any:
        """Predicts the actions from the context of each modality, `[l b m c]`."""
        tokens, first = self.action_tokens(batch, advantages, extra)
        task = self.embed_task(batch, tasks)
        if task is not None:
            tokens, task = self.promote(tokens, task)
        widest = max(layers.shape[1] for layers in context.values())
        tokens = jnp.broadcast_to(tokens, (widest, *tokens.shape[1:]))
        tokens, hiddens = self.transformer(tokens, task, train=train, return_hiddens=True, **context)
        chosen = tokens[:, first : first + self.action_chunk_len]
        predicted = self.to_pred_action(self.final_norm(chosen))
        if actions is not None:
            if actions.shape != (batch, *predicted.shape[1:]):
                raise ValueError(
                    f'actions of shape {actions.shape} must be [b k d], here {(batch, *predicted.shape[1:])}'
                )
            predicted, actions = self.promote(predicted, actions)
            return jnp.abs(predicted - actions).mean()
        return (predicted, jnp.concatenate([hiddens, tokens[None]])) if return_hiddens else predicted

    torch_names = {'transformer': '', 'advantage_emb': 'advantage_emb.weight'}
    # upstream: without registers the state dict still holds them, of no rows.
    torch_only = {
        'register_tokens': lambda model: None if model.num_register_tokens else np.zeros((0, model.dim), np.float32)
    }


def look_up(table: Array, rows: Array, from_end: bool = True) -> Array:
    """Rows of a table, negative ones from its end, `[n d], [b] -> [b d]`; where torch raises a row is NaN."""
    found = to_float32(table).at[rows].get(mode='fill', fill_value=jnp.nan, wrap_negative_indices=from_end)
    return found.astype(table.dtype)


class ImageActionTransformer(ActionTransformer, kw_only=True):
    """An ActionTransformer with images as its only modality.

    Attributes:
      num_views: number of cameras with learned view embeddings; None or 1: any number without.
    """

    num_views: int | None = None

    @property
    def image_views(self) -> int | None:
        return self.num_views

    def __call__(
        self,
        video_or_image: Array,
        train: bool = False,
        *,
        extra: Array | None = None,
        tasks: Array | None = None,
        advantages: Any = None,
        actions: Array | None = None,
        return_hiddens: bool = False,
        freeze_vit: bool = False,
    ) -> Any:
        """Images or videos to actions.

        Args:
          video_or_image: `[b h w c]`, `[b v h w c]` of several views, or `[b v t h w c]` if `time_seq_len` is not 1.
          train: dropout, also that of the ViT.
          extra: further tokens `[b dim_extra_token]`, or several `[b m dim_extra_token]`.
          tasks: int `[b]`, less than `num_tasks`.
          advantages: int `[b]`, or one for all, from -1 to `num_advantage_bins - 1`; without bins they are ignored,
            as upstream does.
          actions: `[b action_chunk_len dim_action]`, the right ones, if the loss is asked for.
          return_hiddens: return the tokens before the blocks and after each too.
          freeze_vit: let no gradient into the ViT.

        Returns:
          Actions `[b action_chunk_len dim_action]`; with `return_hiddens` also `[depth+1 b n dim]`; with `actions`
          the mean absolute error alone.
        """
        return self.act(
            video_or_image.shape[0],
            {'image': self.encode_views(video_or_image, train, freeze_vit)},
            extra=extra,
            tasks=tasks,
            advantages=advantages,
            actions=actions,
            return_hiddens=return_hiddens,
            train=train,
        )

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return self.example_video()


def given(
    value: nn.Module | Mapping[str, Any], build: Callable[..., nn.Module], settings: Mapping[str, Any]
) -> nn.Module:
    """The module itself, or one built from its keyword arguments and these settings."""
    return value if isinstance(value, nn.Module) else build(**{**settings, **value})


class VAT(ImageActionTransformer):
    """Vision Action Transformer (arXiv:2512.06013): images or videos to actions `[b action_chunk_len dim_action]`.

    Attributes:
      vit: a `ViT` of this module, or its keyword arguments.

    Raises:
      ValueError: a ViT of another depth without `vit_layer_indices`, indices of layers that are not there, inputs of
        another layout, of other frames or views, tasks or further tokens that the model is not built for, actions of
        another shape.
    """

    vit: nn.Module | Mapping[str, Any]

    def build_vision(self, **settings: Any) -> Any:
        return given(self.vit, ViT, settings)


# Upstream's example.
README_SIZE: dict[str, Any] = dict(
    dim=512,
    depth=9,
    heads=8,
    dim_head=64,
    mlp_dim=2048,
    dim_action=20,
    action_chunk_len=7,
    time_seq_len=4,
    num_tasks=4,
    add_self_attn=True,
    dim_extra_token=33,
    vit_layer_indices=(0, 0, 1, 1, 2, 2, 3, 3, 4),
)

CARD = ModelCard(
    VAT,
    title='VAT: Vision Action Transformer by Unlocking Full Representation of ViT',
    arxiv='2512.06013',
    takes='images or video of several views [b v t h w c]',
    paper_size=dict(
        vit=dict(image_size=256, patch_size=32, num_classes=1000, dim=256, heads=8, depth=4, mlp_dim=1024),
        num_views=2,
        **README_SIZE,
    ),
)
