"""VAT: Vision Action Transformer, arXiv:2512.06013; upstream module `vat`."""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import FeedForward, pair, patch_embedding, softmax_attention


class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout, seen_dim=None):
        super().__init__()
        inner = heads * dim_head
        self.heads, self.scale = heads, dim_head**-0.5
        self.norm = nn.LayerNorm(dim)
        self.context_norm = nn.LayerNorm(seen_dim) if seen_dim else None
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(seen_dim or dim, 2 * inner, bias=False)
        self.to_out_gates = nn.Sequential(nn.Linear(dim, heads))
        self.dropout = nn.Dropout(dropout)
        bare = heads == 1 and dim_head == dim
        self.to_out = nn.Identity() if bare else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        seen = x if seen is None else self.context_norm(seen)
        q = rearrange(self.to_q(x), 'b n (e k) -> b e n k', e=self.heads)
        k, v = rearrange(self.to_kv(seen), 'b m (kv e k) -> kv b e m k', kv=2, e=self.heads)
        gates = rearrange(self.to_out_gates(x).sigmoid(), 'b n e -> b e n 1')
        x = softmax_attention(q, k, v, self.scale, self.dropout) * gates
        return self.to_out(rearrange(x, 'b e n k -> b n (e k)'))


class FiLM(nn.Module):
    def __init__(self, dim, around_one=False):
        super().__init__()
        linear = nn.Linear(dim, 2 * dim)
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)
        self.to_gamma_beta, self.around_one = nn.Sequential(linear), around_one

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        factor, offset = self.to_gamma_beta(condition).unsqueeze(1).chunk(2, dim=2)
        return x * (factor + self.around_one) + offset


class Trajectory(nn.Module):
    """A transformer that also gives what enters each block."""

    def __init__(self, dim, depth, heads, dim_head, mlp_dim, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(dim, heads, dim_head, dropout), FeedForward(dim, mlp_dim, dropout)])
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        entered = []
        for block in self.layers:
            entered.append(x)
            for branch in block:
                x = x + branch(x)
        return self.norm(x), torch.stack(entered)


class ViT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        heads,
        dim_head=64,
        mlp_dim,
        image_size,
        patch_size,
        channels=3,
        num_classes,
        num_register_tokens=0,
        pool='cls',
        dropout=0.0,
        emb_dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        self.dim, self.depth, self.pool = dim, depth, pool
        self.to_patch_embedding = patch_embedding((p, q), channels, dim)
        self.pos_embedding = nn.Parameter(torch.randn((h // p) * (w // q), dim))
        self.cls_token = nn.Parameter(torch.randn(dim))
        self.register_tokens = nn.Parameter(0.01 * torch.randn(num_register_tokens, dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Trajectory(dim, depth, heads, dim_head, mlp_dim, dropout)
        self.mlp_head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor, return_hiddens: bool = False):
        patches = self.to_patch_embedding(images)
        patches = patches + self.pos_embedding[: patches.shape[1]]
        first = torch.cat([self.register_tokens, self.cls_token[None]]).expand(len(images), -1, -1)
        x, hiddens = self.transformer(self.dropout(torch.cat([first, patches], dim=1)))
        if return_hiddens:
            return x, hiddens
        cls, patches = x[:, first.shape[1] - 1], x[:, first.shape[1] :]
        return self.mlp_head(cls if self.pool == 'cls' else patches.mean(dim=1))


def small(rows, dim):
    return nn.Parameter(0.01 * torch.randn(rows, dim))


class ActionTransformer(nn.Module):
    """All but the senses: `contexts` of the call are a list, for each sense `[l b m c]`."""

    def __init__(
        self,
        dim,
        depth,
        mlp_dim,
        attention,
        feedforward,
        self_attention,
        context_dims,
        num_tasks,
        dim_action,
        dim_extra_token,
        num_register_tokens,
        action_chunk_len,
        num_advantage_bins,
        film_around_one,
    ):
        super().__init__()
        self.task_emb = None if num_tasks is None else small(num_tasks, dim)
        self.register_tokens, self.action_pos_emb = small(num_register_tokens, dim), small(action_chunk_len, dim)
        self.advantage_emb = nn.Embedding(num_advantage_bins + 1, dim) if num_advantage_bins > 0 else None
        self.to_extra_token = nn.Linear(dim_extra_token, dim) if dim_extra_token is not None else None
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    FiLM(dim, film_around_one) if num_tasks is not None else None,
                    self_attention(),
                    *(attention(context_dim) for context_dim in context_dims),
                    feedforward(dim, mlp_dim),
                ]
            )
            for _ in range(depth)
        )
        self.final_norm = nn.LayerNorm(dim)
        self.to_pred_action = nn.Linear(dim, dim_action, bias=False)

    def act(self, contexts, extra, tasks, advantages, actions, return_hiddens, batch):
        registers, chunk = (table.expand(batch, -1, -1) for table in (self.register_tokens, self.action_pos_emb))
        advantage = further = chunk[:, :0]
        if advantages is not None and self.advantage_emb is not None:
            advantage = self.advantage_emb(torch.as_tensor(advantages).expand(batch)[:, None] + 1)
        if extra is not None:
            further = self.to_extra_token(extra.reshape(batch, -1, extra.shape[-1]))
        x = torch.cat([registers, advantage, chunk, further], dim=1)
        first = registers.shape[1] + advantage.shape[1]
        hiddens = [x]
        for (film, among, *across, feedforward), *seen in zip(self.layers, *contexts, strict=True):
            x = x if tasks is None else film(x, self.task_emb[tasks])
            for attention, context in zip(across, seen, strict=True):
                x = x + attention(x, context)
            x = x if among is None else x + among(x)
            x = x + feedforward(x)
            hiddens.append(x)
        predicted = self.to_pred_action(self.final_norm(x[:, first : first + chunk.shape[1]]))
        if actions is not None:
            return (predicted - actions).abs().mean()
        return (predicted, torch.stack(hiddens)) if return_hiddens else predicted


def with_all_axes(video: Tensor) -> Tensor:
    """`[b v c t h w]`, from images of one view or of several too."""
    if video.ndim == 4:
        # upstream: images without an axis of views end in an error of einops, whose pattern lacks its right side.
        video = video.unsqueeze(1)
    return video.unsqueeze(3) if video.ndim == 5 else video


def look(vit, layers, video, time_pos_emb, view_emb, freeze):
    """What each block sees, `[l b m c]`."""
    video = rearrange(with_all_axes(video), 'b v c t h w -> b v t c h w')
    with torch.set_grad_enabled(not freeze):
        last, hiddens = vit(video.flatten(0, 2), return_hiddens=True)
    chosen = torch.cat([hiddens, last.unsqueeze(0)])[list(layers)]
    chosen = chosen.unflatten(1, video.shape[:3])
    if time_pos_emb is not None:
        chosen = chosen + time_pos_emb[:, None]
    if view_emb is not None:
        chosen = chosen + view_emb[:, None, None]
    return chosen.flatten(2, 4)


class VAT(ActionTransformer):
    def __init__(
        self,
        vit,
        *,
        dim,
        mlp_dim,
        depth,
        dim_action,
        heads,
        dim_head,
        self_attn_heads=4,
        self_attn_dim_head=32,
        add_self_attn=True,
        dropout=0.0,
        num_views=None,
        time_seq_len=1,
        vit_layer_indices=None,
        num_tasks=None,
        dim_extra_token=None,
        num_register_tokens=4,
        action_chunk_len=7,
        num_advantage_bins=0,
        film_around_one=False,
    ):
        vit = ViT(**vit) if isinstance(vit, dict) else vit
        super().__init__(
            dim,
            depth,
            mlp_dim,
            lambda context_dim: Attention(dim, heads, dim_head, dropout, context_dim),
            partial(FeedForward, dropout=dropout),
            lambda: Attention(dim, self_attn_heads, self_attn_dim_head, dropout) if add_self_attn else None,
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
