"""VAAT, VAT with audio; upstream module `vaat`."""

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_torch_ref.blocks import FeedForward, pair
from vit_torch_ref.models.vat import ActionTransformer, Attention, Trajectory, ViT, look, small

__all__ = ['AST', 'VAAT', 'ViT']


class Spectrogram(nn.Module):
    """torchaudio's of this name."""

    def __init__(self, n_fft, power, win_length, hop_length, pad, center, pad_mode):
        super().__init__()
        self.register_buffer('window', torch.hann_window(win_length))
        self.pad, self.power = pad, power
        hop = win_length // 2 if hop_length is None else hop_length
        self.sizes = dict(n_fft=n_fft, hop_length=hop, win_length=win_length, center=center, pad_mode=pad_mode)

    def forward(self, audio: Tensor) -> Tensor:
        audio = nn.functional.pad(audio, [self.pad] * 2)
        waves = torch.stft(audio, window=self.window, return_complex=True, **self.sizes)
        return waves.abs() ** self.power


def sines(rows, columns, dim) -> Tensor:
    """`[rows * columns, dim]` in float64."""
    quarter = dim // 4
    omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / (quarter - 1))
    y, x = torch.meshgrid(*(torch.arange(side) for side in (rows, columns)), indexing='ij')
    across, down = (place.reshape(-1, 1) * omega for place in (x, y))
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)


class AST(nn.Module):
    def __init__(
        self,
        dim,
        depth,
        mlp_dim,
        num_classes=None,
        num_register_tokens=4,
        heads=8,
        dim_head=64,
        dropout=0.0,
        patch_size=16,
        accept_spec=False,
        accept_spec_time_first=True,
        **spec,
    ):
        super().__init__()
        self.dim, self.depth, self.patch, self.accept_spec = dim, depth, pair(patch_size), accept_spec
        area = self.patch[0] * self.patch[1]
        self.to_patch_tokens = nn.Sequential(nn.Identity(), nn.LayerNorm(area), nn.Linear(area, dim), nn.LayerNorm(dim))
        defaults = dict(n_fft=128, power=2, win_length=24, hop_length=None, pad=0, center=True, pad_mode='reflect')
        self.spec = Spectrogram(**{name: spec.pop(f'spec_{name}', value) for name, value in defaults.items()})
        if spec:
            raise TypeError(f'unknown arguments {sorted(spec)}')
        self.transformer = Trajectory(dim, depth, heads, dim_head, mlp_dim, dropout)
        # upstream: encoded tokens are normalised twice in a row.
        self.final_norm = nn.LayerNorm(dim)
        self.mlp_head = nn.Identity() if num_classes is None else nn.Linear(dim, num_classes)
        self.register_tokens = small(num_register_tokens, dim)

    def forward(self, audio: Tensor, return_hiddens: bool = False):
        # upstream: `accept_spec_time_first` is never read.
        spec = audio.mT if self.accept_spec else self.spec(audio)
        p, q = self.patch
        rows, columns = spec.shape[1] // p, spec.shape[2] // q
        x = rearrange(spec[:, : rows * p, : columns * q], 'b (h p) (w q) -> b (h w) (p q)', p=p, q=q)
        # upstream: sines are taken in float32, also in a model of doubles.
        x = self.to_patch_tokens(x) + sines(rows, columns, self.dim).to(x)
        x = torch.cat([self.register_tokens.expand(len(x), -1, -1), x], dim=1)
        x, hiddens = self.transformer(x)
        x = self.final_norm(x)
        if return_hiddens:
            return x, hiddens
        return self.mlp_head(x[:, len(self.register_tokens) :].mean(dim=1))


class VAAT(ActionTransformer):
    def __init__(
        self,
        vit,
        ast,
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
        num_image_views=None,
        num_audio_views=None,
        time_seq_len=1,
        vit_layer_indices=None,
        ast_layer_indices=None,
        num_tasks=None,
        dim_extra_token=None,
        num_register_tokens=4,
        action_chunk_len=7,
        num_advantage_bins=0,
        film_around_one=False,
        audio_view_emb_axis='batch',
    ):
        vit = ViT(**vit) if isinstance(vit, dict) else vit
        ast = AST(**ast) if isinstance(ast, dict) else ast
        super().__init__(
            dim,
            depth,
            mlp_dim,
            lambda context_dim: Attention(dim, heads, dim_head, dropout, context_dim),
            partial(FeedForward, dropout=dropout),
            lambda: Attention(dim, self_attn_heads, self_attn_dim_head, dropout) if add_self_attn else None,
            [vit.dim, ast.dim],
            num_tasks,
            dim_action,
            dim_extra_token,
            num_register_tokens,
            action_chunk_len,
            num_advantage_bins,
            film_around_one,
        )
        self.vit, self.indices = vit, range(depth) if vit_layer_indices is None else vit_layer_indices
        self.ast, self.audio_indices = ast, range(depth) if ast_layer_indices is None else ast_layer_indices
        self.time_pos_emb = small(time_seq_len, vit.dim) if time_seq_len > 1 else None
        self.image_view_emb = small(num_image_views, vit.dim) if (num_image_views or 1) > 1 else None
        self.audio_view_emb = small(num_audio_views, ast.dim) if (num_audio_views or 1) > 1 else None
        self.along_batch = audio_view_emb_axis == 'batch'

    def listen(self, audio: Tensor, freeze: bool) -> Tensor:
        """`[l b m c]`."""
        if audio.ndim == (3 if self.ast.accept_spec else 2):
            audio = audio.unsqueeze(1)
        with torch.set_grad_enabled(not freeze):
            last, hiddens = self.ast(audio.flatten(0, 1), return_hiddens=True)
        x = torch.cat([hiddens, last.unsqueeze(0)])[list(self.audio_indices)].unflatten(1, audio.shape[:2])
        if self.audio_view_emb is not None:
            # upstream: the embeddings are added along the batch.
            places = self.audio_view_emb.unsqueeze(1)
            x = x + (places.unsqueeze(1) if self.along_batch else places)
        return x.flatten(2, 3)

    def forward(
        self,
        video,
        audio,
        *,
        actions=None,
        advantages=None,
        tasks=None,
        extra=None,
        freeze_vit=False,
        freeze_ast=False,
        return_hiddens=False,
    ):
        seen = look(self.vit, self.indices, video, self.time_pos_emb, self.image_view_emb, freeze_vit)
        return self.act(
            [seen, self.listen(audio, freeze_ast)], extra, tasks, advantages, actions, return_hiddens, len(video)
        )
