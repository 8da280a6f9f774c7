"""LeVJEPA's encoder for grids of n axes, arXiv:2608.27395; upstream class `levjepa_nd.NDTransformer`."""

from vit_torch_ref.models.levjepa import PlacedTransformer
from vit_torch_ref.models.vit_nd import lengths


class NDTransformer(PlacedTransformer):
    def __init__(
        self,
        *,
        ndim,
        input_shape,
        patch_size,
        causal_dims=(0,),
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        channels=3,
        emb_dropout=0.0,
        dropout=0.0,
        rotary_max_freq=10.0,
    ):
        causal = (causal_dims,) if isinstance(causal_dims, int) else causal_dims
        self.ndim = ndim
        super().__init__(
            lengths(patch_size, ndim), causal, channels, dim, depth, heads, mlp_dim, dim_head, dropout, emb_dropout,
            rotary_max_freq,
        )  # fmt: skip
