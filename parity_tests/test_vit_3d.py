"""State dicts of vit-pytorch before 1.16.2, whose patches of a video had their frames innermost."""

import numpy as np
import torch
from einops.layers.torch import Rearrange

import vit_flax
from parity_tests.bridge import relative_error
from parity_tests.cases.vit_3d import SMALL
from vit_flax.models.vit_3d import ViT
from vit_flax.weights.sources.vit_pytorch import reorder_video_patches
from vit_torch_ref.models.vit_3d import ViT as TorchViT


def test_older_order_inside_a_patch():
    older = TorchViT(**SMALL).double()
    older.to_patch_embedding[0] = Rearrange('b c (t r) (h p) (w q) -> b (t h w) (p q r c)', r=2, p=3, q=4)
    with torch.no_grad():
        # a fresh norm has the same numbers in any order
        for parameter in older.to_patch_embedding[1].parameters():
            parameter.normal_()
    video = np.random.default_rng(0).normal(size=(2, 6, 12, 20, 3))
    want = older(torch.from_numpy(np.moveaxis(video, -1, 1).copy())).detach().numpy()
    state_dict = {name: value.numpy() for name, value in older.state_dict().items()}
    model = ViT(**SMALL)
    variables = vit_flax.from_torch(model, reorder_video_patches(model, state_dict), source='vit_pytorch')
    assert relative_error(model.apply(variables, video), want) <= 1e-12
    untouched = vit_flax.from_torch(model, state_dict, source='vit_pytorch')
    assert relative_error(model.apply(untouched, video), want) > 1e-2
