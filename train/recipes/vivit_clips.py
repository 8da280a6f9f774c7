"""ViViT on your own clips.
"""

from train.config import Config, Loader, Model, Optim
from train.data.augment import Augment
from train.objectives.classification import Classification
from train.sources.video_folder import VideoFolder

CONFIG = Config(
    steps=150,
    batch_size=16,
    eval_every=50,
    save_every=50,
    data=VideoFolder(frames=8, stride=2),
    augment=Augment(image_size=112, resized_crop=(0.5, 1.0), flip=0.5),
    model=Model(
        'vivit',
        dict(
            image_patch_size=16, frame_patch_size=2, dim=96, spatial_depth=3, temporal_depth=2, heads=3, dim_head=32,
            mlp_dim=192, variant='factorized_encoder',
        ),
    ),
    objective=Classification(label_smoothing=0.1),
    optim=Optim(learning_rate=1e-3, warmup=0.1, weight_decay=0.05),
    loader=Loader(threads=2, prefetch=4),
)  # fmt: skip
