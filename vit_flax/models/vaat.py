"""VAAT, VAT (arXiv:2512.06013) with audio; upstream module `vaat`, which has no paper.

vit-pytorch's `vaat`: the action tokens attend to a layer of a ViT and then to one of an AST, the Audio Spectrogram
Transformer (arXiv:2104.01778), which is in here too: it cuts the spectrogram of a sound into patches as a ViT does
an image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.checks import check_choice, pair
from vit_flax.blocks.module import Module, example_inputs
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.positions import sincos_2d
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.spectrogram import hann_window, spectrogram
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Block, FeedForward, Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.vat import README_SIZE, SMALL_NORMAL, ActionBlock, ActionTransformer, Attention, ViT, given

__all__ = ['AST', 'VAAT', 'ViT']


class AST(Module):
    """Audio Spectrogram Transformer (arXiv:2104.01778): audio `[b t]` to logits `[b num_classes]`, or all its layers.

    Attributes:
      dim: width of a token, a multiple of 4.
      depth: number of blocks.
      mlp_dim: hidden width of the feed-forward networks.
      num_classes: width of the logits; None returns the average patch `[b dim]` instead.
      patch_size: frequencies and moments of a patch, or one number for both; the remainder of a spectrogram at
        its end is cut off.
      dim_head: width of one head.
      heads: attention heads in each block.
      dropout: rate after each projection and on the attention maps.
      accept_spec: take spectrograms `[b t f]` instead of audio.
      accept_spec_time_first: without effect.
      spec_n_fft, spec_power, spec_pad, spec_center, spec_pad_mode: those of `vit_flax.blocks.spectrogram`.
      spec_win_length: samples of a window, a Hann window.
      spec_hop_length: samples from one window to the next; windows overlap by half if None.
      num_register_tokens: further learned tokens, before the patches (arXiv:2309.16588).
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: input of another layout or too short for one patch, dim not a multiple of 4, spectrograms that
        cannot be made.
    """

    dim: int
    depth: int
    mlp_dim: int
    num_classes: int | None = None
    patch_size: int | Sequence[int] = 16
    dim_head: int = 64
    heads: int = 8
    dropout: float = 0.0
    accept_spec: bool = False
    # upstream: `accept_spec_time_first` is never read: time comes first in a spectrogram whatever it says.
    accept_spec_time_first: bool = True
    spec_n_fft: int = 128
    spec_power: float = 2
    spec_win_length: int = 24
    spec_hop_length: int | None = None
    spec_pad: int = 0
    spec_center: bool = True
    spec_pad_mode: str = 'reflect'
    num_register_tokens: int = 4
    scan: bool = False
    remat: Remat = False

    @property
    def spectrogram_sizes(self) -> dict[str, Any]:
        """What decides the shape of the spectrogram."""
        hop = self.spec_win_length // 2 if self.spec_hop_length is None else self.spec_hop_length
        return dict(n_fft=self.spec_n_fft, hop_length=hop, pad=self.spec_pad, center=self.spec_center)

    def setup(self) -> None:
        # upstream: the window is a buffer of the state dict; here it is a constant of the model's variables, which
        # hold what the state dict holds.
        self.window = self.variable(
            'constants', 'window', lambda: jnp.asarray(hann_window(self.spec_win_length), jnp.float32)
        )
        self.to_patch_tokens = PatchEmbedding(self.patch_size, self.dim, **self.precision)
        if self.num_register_tokens:
            shape = self.num_register_tokens, self.dim
            self.register_tokens = self.param('register_tokens', SMALL_NORMAL, shape, self.param_dtype)
        block = partial(
            Block,
            partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision),
            partial(FeedForward, self.mlp_dim, self.dropout, **self.precision),
        )
        norm = partial(LayerNorm, **self.precision)
        self.transformer = Transformer(self.depth, block, norm, scan=self.scan, remat=self.remat)
        # upstream: encoded tokens are normalised twice in a row.
        self.final_norm = LayerNorm(**self.precision)
        if self.num_classes is not None:
            self.mlp_head = Dense(self.num_classes, **self.precision)

    def spectrogram(self, audio: Array) -> Array:
        """What is cut into patches, `[b t] -> [b f t]`; a spectrogram `[b t f]` is only turned round."""
        layout = 'b t f' if self.accept_spec else 'b t'
        if audio.ndim != len(layout.split()):
            raise ValueError(f'expected input of layout [{layout}], got shape {audio.shape} with {audio.ndim} axes')
        if self.accept_spec:
            return audio.swapaxes(1, 2)
        power, pad_mode = self.spec_power, self.spec_pad_mode
        return spectrogram(audio, self.window.value, power=power, pad_mode=pad_mode, **self.spectrogram_sizes)

    def embed(self, audio: Array, train: bool = False) -> Array:
        """Audio, or spectrograms, to tokens with positions, registers first, `[b t] -> [b n d]`."""
        spec = self.spectrogram(audio)
        patch = pair(self.patch_size, 'patch_size')
        rows, columns = (length // side for length, side in zip(spec.shape[1:], patch, strict=True))
        if not rows or not columns:
            raise ValueError(f'a spectrogram of shape {spec.shape[1:]} holds no patch of patch_size={patch}')
        whole = spec[:, : rows * patch[0], : columns * patch[1], None]
        x = rearrange(self.to_patch_tokens(whole), 'b h w d -> b (h w) d')
        x = x + sincos_2d(rows, columns, self.dim).astype(x.dtype)
        if self.num_register_tokens:
            registers, x = self.promote(repeat(self.register_tokens, 'm d -> b m d', b=x.shape[0]), x)
            x = jnp.concatenate([registers, x], axis=1)
        return self.tap('embedding', x)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.final_norm(self.transformer(tokens, train=train))

    def classify(self, tokens: Array) -> Array:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`."""
        pooled = tokens[:, self.num_register_tokens :].mean(axis=1)
        return pooled if self.num_classes is None else self.mlp_head(pooled)

    def __call__(self, raw_audio_or_spec: Array, train: bool = False, return_hiddens: bool = False) -> Any:
        """Audio to logits.

        Args:
          raw_audio_or_spec: `[b t]`, or with `accept_spec` `[b t f]`.
          train: dropout.
          return_hiddens: return the encoded tokens `[b n d]`, and what entered each block `[depth b n d]`, instead.
        """
        tokens = self.embed(raw_audio_or_spec, train)
        tokens, hiddens = self.transformer(tokens, train=train, return_hiddens=True)
        tokens = self.final_norm(tokens)
        if return_hiddens and self.is_initializing():
            self.classify(tokens)
        return (tokens, hiddens) if return_hiddens else self.classify(tokens)

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        rows, columns = pair(self.patch_size, 'patch_size')
        if self.accept_spec:
            return jax.ShapeDtypeStruct((1, columns, rows), jnp.float32)
        samples = self.spec_n_fft + columns * self.spectrogram_sizes['hop_length']
        return jax.ShapeDtypeStruct((1, samples), jnp.float32)

    torch_names = {'window': 'spec.window'}
    # upstream: without registers the state dict still holds them, of no rows.
    torch_only = {
        'register_tokens': lambda model: None if model.num_register_tokens else np.zeros((0, model.dim), np.float32)
    }


class AudioActionBlock(ActionBlock):
    """VAT's block with attention to a layer of the AST between that to the ViT and that among the tokens."""

    modalities = ('image', 'audio')

    torch_names = {'audio_attention': '3', 'feedforward': '4'}


class VAAT(ActionTransformer):
    """VAT with audio: images or videos, and audio, to actions `[b action_chunk_len dim_action]`.

    Attributes:
      vit: a `ViT`, or its keyword arguments.
      ast: an `AST`, or its keyword arguments.
      num_image_views: number of cameras with learned view embeddings; None or 1: any number without.
      num_audio_views: number of microphones, likewise.
      ast_layer_indices: as `vit_layer_indices`, of the AST.
      audio_view_emb_axis: 'batch' as upstream, 'view' as meant: the axis along which the embeddings of audio views
        are added. For 'batch' there must be as many samples as audio views, or one.

    Raises:
      ValueError: a ViT or an AST of another depth without indices of its layers, indices of layers that are not
        there, inputs of another layout, of other frames or views, tasks or further tokens that the model is not built
        for, actions of another shape.
    """

    vit: nn.Module | Mapping[str, Any]
    ast: nn.Module | Mapping[str, Any]
    _: KW_ONLY
    num_image_views: int | None = None
    num_audio_views: int | None = None
    ast_layer_indices: Sequence[int] | None = None
    audio_view_emb_axis: str = 'batch'

    @property
    def image_views(self) -> int | None:
        return self.num_image_views

    @property
    def block(self) -> Callable[..., nn.Module]:
        return AudioActionBlock

    def setup(self) -> None:
        check_choice('audio_view_emb_axis', self.audio_view_emb_axis, ('batch', 'view'))
        super().setup()
        self.audio = self.build_audio(**self.precision, name='ast')
        self.audio_layers = self.layers_of('ast', self.audio, self.ast_layer_indices)
        if self.num_audio_views is not None and self.num_audio_views > 1:
            self.audio_view_emb = self.learned('audio_view_emb', self.num_audio_views, self.audio.dim)

    def build_vision(self, **settings: Any) -> Any:
        return given(self.vit, ViT, settings)

    def build_audio(self, **settings: Any) -> Any:
        """The audio encoder; `settings` apply only if it is built from keyword arguments."""
        return given(self.ast, AST, settings)

    def encode_audio(self, audio: Array, train: bool = False, freeze: bool = False) -> Array:
        """Audio context of each block, from all views, `[b v t] -> [l b m c]`; spectrograms `[b v t f]` likewise."""
        layout = 'b v t f' if self.audio.accept_spec else 'b v t'
        rank = len(layout.split())
        if audio.ndim == rank - 1:
            audio = audio[:, None]
        if audio.ndim != rank:
            one = layout.replace(' v', '')
            raise ValueError(f'expected audio of layout [{one}] or [{layout}], got shape {audio.shape}')
        batch, views = audio.shape[:2]
        together = audio.reshape(batch * views, *audio.shape[2:])
        audio_tokens = self.trajectory(self.audio, self.audio_layers, together, train, freeze)
        audio_tokens = rearrange(audio_tokens, 'l (b v) n d -> l b v n d', v=views)
        if self.num_audio_views is not None and self.num_audio_views > 1:
            audio_tokens = self.add_audio_views(audio_tokens)
        return rearrange(audio_tokens, 'l b v n d -> l b (v n) d')

    def add_audio_views(self, audio_tokens: Array) -> Array:
        """Adds the embeddings of the audio views, `[l b v n d] -> [l b v n d]`."""
        batch, views = audio_tokens.shape[1:3]
        if views != self.num_audio_views:
            raise ValueError(f'audio of {views} views: they must be num_audio_views={self.num_audio_views}')
        audio_tokens, positions = self.promote(audio_tokens, self.audio_view_emb)
        if self.audio_view_emb_axis == 'view':
            return audio_tokens + rearrange(positions, 'v d -> v 1 d')
        # upstream: embeddings of audio views are added along the batch and not along the views: the first sample gets
        # that of the first view, and so on. Other batches than of as many samples as views end in an error, but for
        # one sample, of which come as many actions as there are views. `audio_view_emb_axis='view'` adds them where
        # they belong.
        if batch not in (1, views):
            raise ValueError(
                f'a batch of {batch} must be of num_audio_views={views} samples, along which upstream adds the '
                "embeddings of audio views: audio_view_emb_axis='view' adds them along the views"
            )
        return audio_tokens + rearrange(positions, 'v d -> v 1 1 d')

    def __call__(
        self,
        video_or_image: Array,
        audio_or_spec: Array,
        train: bool = False,
        *,
        extra: Array | None = None,
        tasks: Array | None = None,
        advantages: Any = None,
        actions: Array | None = None,
        return_hiddens: bool = False,
        freeze_vit: bool = False,
        freeze_ast: bool = False,
    ) -> Any:
        """Images or videos, and audio, to actions.

        Args:
          video_or_image: `[b h w c]`, `[b v h w c]` of several views, or `[b v t h w c]` if `time_seq_len` is not 1.
          audio_or_spec: `[b t]`, or `[b v t]` of several views; spectrograms `[b t f]` or `[b v t f]` if the AST
            accepts those.
          train, extra, tasks, advantages, actions, return_hiddens, freeze_vit: as for `VAT`.
          freeze_ast: let no gradient into the AST.

        Returns:
          Actions `[b action_chunk_len dim_action]`; with `return_hiddens` also `[depth+1 b n dim]`; with `actions`
          the mean absolute error alone.
        """
        image = self.encode_views(video_or_image, train, freeze_vit)
        audio = self.encode_audio(audio_or_spec, train, freeze_ast)
        image = jnp.broadcast_to(image, (image.shape[0], audio.shape[1], *image.shape[2:]))
        return self.act(
            video_or_image.shape[0],
            {'image': image, 'audio': audio},
            extra=extra,
            tasks=tasks,
            advantages=advantages,
            actions=actions,
            return_hiddens=return_hiddens,
            train=train,
        )

    def example_input(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of inputs, for tracing."""
        (audio,) = example_inputs(self.build_audio(parent=None))
        shape = (1, self.num_audio_views or 1, *audio.shape[1:])
        return self.example_video(), jax.ShapeDtypeStruct(shape, audio.dtype)

    torch_names = {'view_emb': 'image_view_emb'}


CARD = ModelCard(
    VAAT,
    title='vit-pytorch: VAT with audio',
    arxiv='',
    takes='images or video of several views [b v t h w c], and audio [b v t]',
    paper_size=dict(
        vit=dict(image_size=256, patch_size=32, num_classes=1000, dim=384, heads=8, depth=4, mlp_dim=1536),
        ast=dict(dim=384, depth=4, heads=8, num_classes=1000, patch_size=16, mlp_dim=1536),
        num_image_views=2,
        num_audio_views=2,
        ast_layer_indices=(1, 1, 1, 2, 2, 2, 3, 3, 3),
        **README_SIZE,
    ),
)
