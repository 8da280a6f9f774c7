"""What the cases of objectives of several views share: views given to upstream, which would draw them itself."""

import torch

from parity_tests.case import Input, Submodule
from parity_tests.cases.cvt import SMALL as CVT_SMALL
from vit_torch_ref.models.simple_vit import sincos_2d

# upstream takes square images alone
SIZE = 24
NET = dict(image_size=SIZE, patch_size=(4, 6), num_classes=7, dim=20, depth=1, heads=3, dim_head=6, mlp_dim=28)
VIT = Submodule('models.vit', 'ViT', NET)
SIMPLE_VIT = Submodule('models.simple_vit', 'SimpleViT', NET)
# one that ends in a feature map
CVT = Submodule('models.cvt', 'CvT', {**CVT_SMALL, 's3_depth': 1})


def views(large: int, small: int, size: int = SIZE, small_size: int | None = None) -> tuple[Input, ...]:
    """Large and small ones of four images."""
    both = (large, size), (small, small_size or size)
    return tuple(Input((count, 4, side, side, 3), 'v b h w c') for count, side in both)


def positions_in_float64(model: torch.nn.Module) -> None:
    """Upstream's SimpleViT takes the sines of its table in float32."""
    for name, module in model.named_modules():
        if name.endswith('net') and hasattr(module, 'pos_embedding'):
            module.pos_embedding = sincos_2d(6, 4, NET['dim'])


def statistics_as_new(model: torch.nn.Module) -> None:
    """Upstream's constructor runs the network on noise, in training mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()


def given_views(model: torch.nn.Module) -> None:
    """Upstream augments an image twice, and takes a small and a large crop of each."""
    forward = model.forward

    def of_views(large, small, student_temp=None, teacher_temp=None):
        temperatures = {'student_temp': student_temp, 'teacher_temp': teacher_temp}
        model.augment1, model.augment2 = (lambda pair, i=i: (pair[0][i], pair[1][i]) for i in range(2))
        return forward((large, small), **{k: v for k, v in temperatures.items() if v is not None})

    for name in ('augment1', 'augment2', 'global_crop', 'local_crop'):
        delattr(model, name)
    model.global_crop, model.local_crop = (lambda view, i=i: view[i] for i in range(2))
    model.forward = of_views
