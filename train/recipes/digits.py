"""A small ViT on real handwritten digits, from scratch, on any machine.

What: 1,797 handwritten digits that come with scikit-learn (no download), 8x8 pixels enlarged to
16x16, four fifths to train on; ViT with 4x4 patches, width 64, depth 4, 136 thousand parameters;
rotation, shift and zoom.

Command: python -m train digits

Hardware: any CPU.

Time: about one minute on two CPU cores, of which 15 s compile, draw and start

Expect: 99.4, 98.9 and 99.4 % of the 360 held-out images with --seed 0, 1 and 2
"""

from train.config import Config, Model, Optim
from train.data.augment import Augment
from train.objectives.classification import Classification
from train.sources.digits import Digits

CONFIG = Config(
    steps=1200,
    batch_size=64,
    data=Digits(),
    augment=Augment(image_size=16, rotate=12, shift=0.1, zoom=0.12),
    model=Model('vit', dict(patch_size=4, dim=64, depth=4, heads=4, dim_head=16, mlp_dim=128)),
    objective=Classification(label_smoothing=0.1),
    optim=Optim(learning_rate=2e-3, warmup=0.1, weight_decay=0.05),
)
