"""VAT on a SigLIP, arXiv:2512.06013 and arXiv:2303.15343; upstream module `vat_siglip`."""

from functools import partial

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import pair, softmax_attention
from vit_torch_ref.models.vat import ActionTransformer, look, small


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, eps=1e-6, dropout=0.0, seen_dim=None):
        super().__init__()
        inner, cross = heads * dim_head, seen_dim is not None
        seen_dim = seen_dim if cross else dim
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim, eps)
        self.norm_context = nn.LayerNorm(seen_dim, eps) if cross else None
        self.to_q, self.to_kv = nn.Linear(dim, inner), nn.Linear(seen_dim, 2 * inner)
        # upstream: the output alone is dropped, not the maps.
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))
        self.to_out_gates = nn.Sequential(nn.Linear(dim, heads), nn.Sigmoid()) if cross else None

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        seen = x if seen is None else self.norm_context(seen)
        q = rearrange(self.to_q(x), 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.to_kv(seen), 'b m (kv e k) -> kv b e m k', kv=2, e=self.heads)
        out = softmax_attention(q, k, v, self.scale)
        if self.to_out_gates is not None:
            out = out * rearrange(self.to_out_gates(x), 'b n e -> b e n 1')
        return self.to_out(rearrange(out, 'b e n k -> b n (e k)'))


def feed_forward(dim, hidden_dim, eps=1e-6) -> nn.Sequential:
    expand, contract = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
    return nn.Sequential(nn.LayerNorm(dim, eps), expand, nn.GELU('tanh'), contract)


class SigLIP(nn.Module):
    def __init__(self, mlp_dim=4304, heads=16, depth=27, dim=1152, patch_size=14, image_size=224, norm_eps=1e-6):
        super().__init__()
        # upstream: sides of images and patches are one number each.
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.dim, self.depth = dim, depth
        self.to_patch_embed = nn.Sequential(
            Rearrange('b c (h p) (w q) -> b (h w) (p q c)', p=p, q=q), nn.Linear(p * q * 3, dim)
        )
        self.pos_embed = nn.Parameter(torch.randn((h // p) * (w // q), dim))
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim // heads, norm_eps), feed_forward(dim, mlp_dim, norm_eps)])
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, norm_eps)

    def forward(self, images: Tensor, return_hiddens: bool = False):
        x = self.to_patch_embed(images)
        x = x + self.pos_embed[: x.shape[1]]
        entered = []
        for block in self.layers:
            entered.append(x)
            for branch in block:
                x = x + branch(x)
        return (self.norm(x), torch.stack(entered)) if return_hiddens else self.norm(x)


class SigLIPVAT(ActionTransformer):
    """Takes `siglip_depth` and so on for each argument of SigLIP."""

    def __init__(
        self,
        *,
        dim=512,
        mlp_dim=2048,
        depth=27,
        dim_action=32,
        heads=8,
        dim_head=64,
        self_attn_heads=4,
        self_attn_dim_head=32,
        add_self_attn=True,
        dropout=0.0,
        num_views=1,
        time_seq_len=1,
        vit_layer_indices=None,
        num_tasks=None,
        dim_extra_token=None,
        num_register_tokens=4,
        action_chunk_len=50,
        num_advantage_bins=0,
        film_around_one=False,
        **siglip,
    ):
        vit = SigLIP(**{name.removeprefix('siglip_'): value for name, value in siglip.items()})
        attention = partial(Attention, dim, dropout=dropout)
        super().__init__(
            dim,
            depth,
            mlp_dim,
            lambda context_dim: attention(heads, dim_head, seen_dim=context_dim),
            feed_forward,
            lambda: attention(self_attn_heads, self_attn_dim_head) if add_self_attn else None,
            [vit.dim],
            num_tasks,
            dim_action,
            dim_extra_token,
            num_register_tokens,
            action_chunk_len,
            num_advantage_bins,
            film_around_one,
        )
        self.vit, self.indices = vit, range(depth) if vit_layer_indices is None else vit_layer_indices
        self.time_pos_emb = small(time_seq_len, vit.dim) if time_seq_len > 1 else None
        self.view_emb = small(num_views, vit.dim) if (num_views or 1) > 1 else None

    def forward(
        self,
        video,
        *,
        actions=None,
        advantages=None,
        tasks=None,
        extra=None,
        freeze_vit=False,
        return_hiddens=False,
    ):
        seen = look(self.vit, self.indices, video, self.time_pos_emb, self.view_emb, freeze_vit)
        return self.act([seen], extra, tasks, advantages, actions, return_hiddens, len(video))
