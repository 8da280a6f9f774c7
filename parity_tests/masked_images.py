"""What the cases of the objectives of masked images share: small encoders, draws, and upstream brought to run."""

import numpy as np
import torch

from parity_tests.case import Submodule
from vit_torch_ref.models.simple_vit import sincos_2d

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)
VIT = Submodule('models.vit', 'ViT', SMALL)
VIT_MEAN = Submodule('models.vit', 'ViT', {**SMALL, 'pool': 'mean', 'depth': 1})
SIMPLE_VIT = Submodule('models.simple_vit', 'SimpleViT', SMALL)
# upstream's takes square images alone
DEEPVIT = Submodule('models.deepvit', 'DeepViT', {**SMALL, 'image_size': 24, 'patch_size': 6, 'depth': 1})
# 3 steps of 3 x 5 patches
VIT_3D = Submodule(
    'models.vit_3d',
    'ViT',
    dict(
        image_size=(9, 20),
        image_patch_size=(3, 4),
        frames=6,
        frame_patch_size=2,
        num_classes=7,
        dim=20,
        depth=1,
        heads=3,
        dim_head=6,
        mlp_dim=28,
    ),
)


def split(rng: np.random.Generator, patches: int, masked: int, batch: int = 2) -> dict[str, np.ndarray]:
    """`masked` patches of each image hidden, the others visible, both in any order."""
    order = rng.permuted(np.broadcast_to(np.arange(patches), (batch, patches)), axis=1)
    return {'masked': order[:, :masked], 'visible': order[:, masked:]}


def tubes(rng: np.random.Generator, steps: int, places: int, masked: int, batch: int = 2) -> dict[str, np.ndarray]:
    """The same for videos: the same places hidden at every step."""
    starts = places * np.arange(steps)[:, None]
    return {name: (starts + part[:, None]).reshape(batch, -1) for name, part in split(rng, places, masked).items()}


def positions_with_batch_axis(model: torch.nn.Module) -> None:
    """Upstream's MAE and SimMIM slice the second axis of the positions, which its ViT no longer has."""
    model.encoder.pos_embedding = torch.nn.Parameter(model.encoder.pos_embedding.detach()[None])


def positions_in_float64(model: torch.nn.Module) -> None:
    """Upstream's SimpleViT takes the sines of its table in float32."""
    table = model.encoder.pos_embedding
    rows, columns = (size // part for size, part in zip(SMALL['image_size'], SMALL['patch_size'], strict=True))
    model.encoder.pos_embedding = sincos_2d(rows, columns, table.shape[-1])
