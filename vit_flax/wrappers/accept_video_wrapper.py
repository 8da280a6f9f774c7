"""Videos for a model of images, frame by frame; upstream module `accept_video_wrapper`."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.checks import pair, patch_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense
from vit_flax.models.vivit_with_moss import MOSS
from vit_flax.taps import capturing
from vit_flax.wrappers.extractor import Extractor


class AcceptVideoWrapper(Module):
    """A model of images that takes videos: `[b t h w c]` to its outputs with an axis of time, `[b t ...]`.

    Attributes:
      image_net: a Flax model of images `[b h w c]`, or an `Extractor` of one, which gives embeddings too; its
        layer must not lie inside of a scanned or rematerialised trunk.
      forward_function: the model's method that is called; 'forward' is the model's call itself.
      add_time_pos_emb: add a learned embedding of the time to one of the outputs.
      dim_emb: width of this output, as the model gives it.
      time_seq_len: longest video in frames, with `add_time_pos_emb`.
      embed_is_channel_first: this output is `[b t d ...]`; else `[b t ... d]`.
      output_pos_add_pos_emb: which of the outputs it is.
      proj_embed_to_dim: width to which it is projected first.
      patch_size: of the model's patches, for `moss`; the model's own attribute of this name if None.
      moss: `MOSS` or its arguments, for the same output, then tokens `[b t n d]` whose last ones are patches.

    Raises:
      ValueError: a width, a length or a patch size that is needed and not given, a video of another layout, or
        longer than `time_seq_len`.
    """

    image_net: Any
    forward_function: str = 'forward'
    add_time_pos_emb: bool = False
    dim_emb: int | None = None
    time_seq_len: int | None = None
    embed_is_channel_first: bool = False
    output_pos_add_pos_emb: int = 0
    proj_embed_to_dim: int | None = None
    patch_size: int | Sequence[int] | None = None
    moss: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.moss, Mapping):
            self.moss = MOSS(**self.moss, **self.precision, parent=None)
        super().__post_init__()

    def _patch_size(self) -> tuple[int, int]:
        nets = self.image_net, getattr(self.image_net, 'vit', None)
        sizes = (self.patch_size, *(getattr(net, 'patch_size', None) for net in nets))
        size = next((size for size in sizes if size is not None), None)
        if size is None:
            raise ValueError('patch_size=None must be given for moss: the model of images does not say its own')
        return pair(size)

    def _check(self, video: Array) -> None:
        if video.ndim != 5:
            raise ValueError(f'expected input of layout [b t h w c], got shape {video.shape} with {video.ndim} axes')
        if self.dim_emb is None and (self.add_time_pos_emb or self.proj_embed_to_dim is not None):
            raise ValueError('dim_emb=None must be given for add_time_pos_emb and proj_embed_to_dim')
        if not self.add_time_pos_emb:
            return
        if self.time_seq_len is None:
            raise ValueError('time_seq_len=None must be given for add_time_pos_emb')
        if video.shape[1] > self.time_seq_len:
            raise ValueError(f'the video has {video.shape[1]} frames, time_seq_len={self.time_seq_len} is too short')

    def _run(self, frames: Array, train: bool, kwargs: Mapping[str, Any]) -> Any:
        """The outputs of the model of images, `[n h w c] -> [n ...]`."""
        extractor = self.image_net if isinstance(self.image_net, Extractor) else None
        net = extractor.vit.clone(parent=self, name='vit') if extractor else self.image_net
        name = '__call__' if self.forward_function == 'forward' else self.forward_function
        function = getattr(net, name)
        switch = {'train': train} if 'train' in inspect.signature(function).parameters else {}
        if extractor is None:
            return function(frames, **switch, **kwargs)

        layer = extractor.layer_name
        with capturing(net, layer, inputs=extractor.layer_save_input, argument='layer_name') as captured:
            output = function(frames, **switch, **kwargs)
        embeddings = captured[layer]
        embeddings = jax.lax.stop_gradient(embeddings) if extractor.detach else embeddings
        return embeddings if extractor.return_embeddings_only else (output, embeddings)

    @nn.compact
    def __call__(
        self,
        video: Array,
        train: bool = False,
        eval_with_no_grad: bool = False,
        forward_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Videos to the model's outputs.

        Args:
          video: `[b t h w c]`.
          train: handed to the model of images.
          eval_with_no_grad: run the model of images in evaluation mode, and let no gradient into it.
          forward_kwargs: further arguments of the model of images.

        Returns:
          The structure that the model returns. Arrays of one number, such as a loss, stay as they are.
        """
        self._check(video)
        batch, time, height, width, _ = video.shape
        frames = rearrange(video, 'b t h w c -> (b t) h w c')
        # upstream: `eval_with_no_grad=True` leaves the model of images in evaluation mode for good; here there is no
        # such mode to leave.
        outputs = self._run(frames, train and not eval_with_no_grad, forward_kwargs or {})
        if eval_with_no_grad:
            outputs = jax.lax.stop_gradient(outputs)
        leaves, structure = jax.tree.flatten(outputs)
        leaves = [leaf.reshape(batch, time, *leaf.shape[1:]) if jnp.size(leaf) > 1 else leaf for leaf in leaves]
        place = self.output_pos_add_pos_emb
        if not -len(leaves) <= place < len(leaves):
            raise ValueError(f'output_pos_add_pos_emb={place} is none of the {len(leaves)} outputs of the model')
        leaves[place] = self._finish(leaves[place], height, width)
        return jax.tree.unflatten(structure, leaves)

    def _finish(self, embed: Array, height: int, width: int) -> Array:
        """Projection, time and motion of one output."""
        dim = self.dim_emb
        if self.proj_embed_to_dim is not None:
            dim = self.proj_embed_to_dim
            embed = Dense(dim, **self.precision, name='embed_proj')(embed)
        if self.add_time_pos_emb:
            table = self.param('pos_emb', normal(1e-2), (self.time_seq_len, dim), self.param_dtype)
            embed, table = self.promote(embed, table)
            ones = (1,) * (embed.ndim - 3)
            shape = (embed.shape[1], dim, *ones) if self.embed_is_channel_first else (embed.shape[1], *ones, dim)
            embed = embed + table[: embed.shape[1]].reshape(shape)
        if self.moss is not None:
            rows, columns = patch_grid((height, width), self._patch_size(), 'the height and width of the video')
            others = embed.shape[2] - rows * columns if embed.ndim == 4 else -1
            if others < 0:
                raise ValueError(
                    f'moss needs tokens [b t n d], at least {rows} x {columns} of them; output '
                    f'{self.output_pos_add_pos_emb} has shape {embed.shape}'
                )
            patches = rearrange(embed[:, :, others:], 'b t (h w) d -> b t h w d', h=rows)
            patches = rearrange(self.moss(patches), 'b t h w d -> b t (h w) d')
            embed = jnp.concatenate([embed[:, :, :others], patches], axis=2)
        return embed

    def example_input(self) -> jax.ShapeDtypeStruct:
        """An input that fits, for tracing."""
        net = self.image_net.vit if isinstance(self.image_net, Extractor) else self.image_net
        _, *shape = net.example_input().shape
        return jax.ShapeDtypeStruct((1, self.time_seq_len or 2, *shape), jnp.float32)

    torch_names = {'vit': 'image_net.vit'}
