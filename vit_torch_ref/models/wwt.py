"""What-Where Transformer, arXiv:2605.12021; upstream module `wwt`."""

from itertools import pairwise

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize

from vit_torch_ref.blocks import pair


def sigreg_loss(x: Tensor, directions: Tensor, domain=(-5, 5), knots=17) -> Tensor:
    places = torch.linspace(*domain, knots).to(x)
    window = torch.exp(-places.square() / 2)
    along = (x @ normalize(directions, dim=-1).mT).flatten(0, -2)
    waves = torch.polar(torch.ones(()).to(x).expand(*along.shape, knots), along[..., None] * places)
    distance = torch.view_as_real(waves.mean(dim=0) - window).square().sum(dim=-1)
    return torch.trapezoid(distance * window, places, dim=-1).mean()


def norm(dim):
    return nn.LayerNorm(dim, bias=False)


def network(dim, hidden, out, dropout):
    expand, contract = nn.Linear(dim, hidden), nn.Linear(hidden, out)
    return nn.Sequential(norm(dim), expand, nn.GELU(), nn.Dropout(dropout), contract, nn.Dropout(dropout))


class AutoencodingHead(nn.Module):
    def __init__(self, *, pathways=None, patch_pathway_id=0, decoder=None, channel_first=False, image_size, patch_size):
        super().__init__()
        self.pathways, self.patches = pathways, patch_pathway_id
        self.grid = tuple(size // patch for size, patch in zip(pair(image_size), pair(patch_size), strict=True))
        self.channel_first = channel_first
        self.decoder = decoder or nn.Identity()

    def forward(self, levels, masks, interactions):
        maps = {ends: mask.flatten(1, -3).mean(dim=1) for ends, mask in zip(interactions, masks, strict=True)}
        found = []
        for path in self.pathways or [ends[::-1] for ends in interactions if ends[0] == self.patches]:
            x = levels[path[0]]
            for here, there in pairwise(path):
                scores = maps[there, here] if there < here else maps[here, there].mT
                x = scores.softmax(dim=-1) @ x
            if path[-1] == self.patches:
                x = x.unflatten(1, self.grid)
                x = x.movedim(-1, 1) if self.channel_first else x
            found.append(self.decoder(x))
        return tuple(found) if len(found) > 1 else found[0]


class MutualAttention(nn.Module):
    def __init__(self, dim, slots, heads, dim_head, mlp_dim, dropout, l1norm, two_maps, project, gate):
        super().__init__()
        inner, self.groups = heads * dim_head, 1 + two_maps
        joined = two_maps and project
        rows = heads * slots * (1 if joined else self.groups)
        self.heads, self.scale, self.l1norm = heads, dim_head**-0.5, l1norm
        self.to_q_v_tokens = nn.Linear(dim, (1 + self.groups) * inner, bias=False)
        self.to_k_v_slots = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out_tokens, self.to_out_slots = (
            nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout)) for _ in range(2)
        )
        self.mask_project = nn.Conv2d(2 * heads, heads, 1) if joined else None
        self.mlp_mask = network(rows + dim, mlp_dim, rows, dropout)
        if gate:
            self.tokens_gate, self.slots_gate = (nn.Sequential(nn.Linear(dim, heads, bias=False)) for _ in range(2))
        self.gated = gate

    def forward(self, tokens: Tensor, slots: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        split = rearrange(self.to_q_v_tokens(tokens), 'b n (g e k) -> g b e n k', g=1 + self.groups, e=self.heads)
        k, v_slots = rearrange(self.to_k_v_slots(slots), 'b m (kv e k) -> kv b e m k', kv=2, e=self.heads)
        mask = mask + torch.stack([q @ k.mT * self.scale for q in split[:-1]], dim=1)
        take_tokens = mask[:, 0].softmax(dim=-1)
        take_slots = mask[:, -1].softmax(dim=-1 if self.groups == 2 else -2)
        if self.l1norm:
            take_tokens = take_tokens / take_tokens.sum(dim=-2, keepdim=True).clamp(min=1e-8)
        results = take_slots @ v_slots, take_tokens.mT @ split[-1]
        if self.gated:
            gates = self.tokens_gate(tokens), self.slots_gate(slots)
            results = [x * gate.sigmoid().mT[..., None] for x, gate in zip(results, gates, strict=True)]
        for_tokens, for_slots = (rearrange(x, 'b e n k -> b n (e k)') for x in results)
        for_tokens, for_slots = self.to_out_tokens(for_tokens), self.to_out_slots(for_slots)
        if self.mask_project is not None:
            mask = self.mask_project(mask.flatten(1, 2))[:, None]
        groups = mask.shape[1]
        rows = torch.cat([rearrange(mask, 'b g e n m -> b n (g e m)'), tokens + for_tokens], dim=-1)
        mask = rearrange(self.mlp_mask(rows), 'b n (g e m) -> b g e n m', g=groups, e=self.heads)
        return for_tokens, for_slots, mask


class Block(nn.Module):
    def __init__(self, dim, lengths, interactions, mlp_dim, dropout, **attention):
        super().__init__()
        self.interactions = interactions
        self.attns = nn.ModuleList(
            MutualAttention(dim, lengths[j], mlp_dim=mlp_dim, dropout=dropout, **attention) for _, j in interactions
        )
        self.norms = nn.ModuleList(norm(dim) for _ in lengths)
        self.mlps = nn.ModuleList(network(dim, mlp_dim, dim, dropout) for _ in lengths)

    def forward(self, levels, masks):
        normed = [of_level(x) for of_level, x in zip(self.norms, levels, strict=True)]
        levels, new_masks = list(levels), []
        for (i, j), attention, mask in zip(self.interactions, self.attns, masks, strict=True):
            for_i, for_j, new_mask = attention(normed[i], normed[j], mask)
            levels[i], levels[j] = levels[i] + for_i, levels[j] + for_j
            new_masks.append(new_mask)
        return [x + mlp(x) for x, mlp in zip(levels, self.mlps, strict=True)], new_masks


class WWT(nn.Module):
    def __init__(
        self,
        *,
        dim,
        depth,
        num_slots,
        interactions=None,
        num_register_tokens=0,
        num_register_slots=0,
        heads=8,
        dim_head=64,
        mlp_dim=None,
        gate_attention=True,
        l1norm_after_tokens_softmax=False,
        project_mask_groups=False,
        token_softmax_over_slots=False,
        return_tokens=False,
        sigreg_slots=None,
        task_heads=(),
        image_size,
        patch_size,
        channels=3,
        num_classes,
        dropout=0.0,
    ):
        super().__init__()
        (h, w), (p, q) = pair(image_size), pair(patch_size)
        counts = (num_slots,) if isinstance(num_slots, int) else num_slots
        registers = (num_register_slots,) * len(counts) if isinstance(num_register_slots, int) else num_register_slots
        self.interactions = interactions or tuple((0, level) for level in range(1, 1 + len(counts)))
        self.regularised = (sigreg_slots,) * len(counts) if isinstance(sigreg_slots, bool) else sigreg_slots or ()
        self.one_map = project_mask_groups or not token_softmax_over_slots
        self.heads, self.registers = heads, (num_register_tokens, *registers)

        patches, width = (h // p) * (w // q), p * q * channels
        self.to_patch_embedding = nn.Sequential(
            Rearrange('b c (h p) (w q) -> b (h w) (p q c)', p=p, q=q), norm(width), nn.Linear(width, dim), norm(dim)
        )
        self.pos_embedding = nn.Parameter(torch.randn(patches, dim))
        self.slots = nn.ParameterList(nn.Parameter(torch.randn(count, dim)) for count in counts)
        self.register_tokens = nn.Parameter(torch.randn(num_register_tokens, dim))
        self.register_slots = nn.ParameterList(nn.Parameter(torch.randn(count, dim)) for count in registers)
        lengths = [count + more for count, more in zip((patches, *counts), self.registers, strict=True)]
        attention = dict(
            heads=heads,
            dim_head=dim_head,
            l1norm=l1norm_after_tokens_softmax,
            two_maps=token_softmax_over_slots,
            project=project_mask_groups,
            gate=gate_attention,
        )
        self.layers = nn.ModuleList(
            Block(dim, lengths, self.interactions, mlp_dim or 4 * dim, dropout, **attention) for _ in range(depth)
        )
        self.mlp_head = nn.Sequential(norm(dim), nn.Linear(dim, num_classes))
        self.mlp_head_tokens = nn.Sequential(norm(dim), nn.Linear(dim, num_classes)) if return_tokens else None
        self.task_heads = nn.ModuleList([task_heads] if isinstance(task_heads, nn.Module) else task_heads)

    def forward(self, images: Tensor, return_embeddings=False, sigreg_projections=None):
        levels = [self.to_patch_embedding(images) + self.pos_embedding]
        levels += [slots.expand(len(images), -1, -1) for slots in self.slots]
        registers = [self.register_tokens, *self.register_slots]
        levels = [
            torch.cat([more.expand(len(images), -1, -1), x], dim=1) for more, x in zip(registers, levels, strict=True)
        ]
        groups = 1 if self.one_map else 2
        masks = [
            images.new_zeros(len(images), groups, self.heads, levels[i].shape[1], levels[j].shape[1])
            for i, j in self.interactions
        ]
        for layer in self.layers:
            levels, masks = layer(levels, masks)
        levels = [x[:, count:] for x, count in zip(levels, self.registers, strict=True)]
        masks = [
            mask[..., self.registers[i] :, self.registers[j] :]
            for (i, j), mask in zip(self.interactions, masks, strict=True)
        ]
        masks = [mask[:, 0] for mask in masks] if self.one_map else masks
        tokens, *slots = levels
        if return_embeddings:
            return tuple(slots), tokens if self.mlp_head_tokens else None, masks

        logits = torch.stack([self.mlp_head(x).mean(dim=1) for x in slots]).mean(dim=0)
        if self.mlp_head_tokens is not None:
            logits = logits, self.mlp_head_tokens(tokens).mean(dim=1)
        if self.task_heads:
            logits = logits, *(head(levels, masks, self.interactions) for head in self.task_heads)
        chosen = [x for x, wanted in zip(slots, self.regularised, strict=False) if wanted]
        if chosen:
            # upstream: draws the projections itself, in evaluation too.
            losses = [sigreg_loss(x, drawn) for x, drawn in zip(chosen, sigreg_projections, strict=True)]
            logits = *(logits if isinstance(logits, tuple) else (logits,)), sum(losses)
        return logits
