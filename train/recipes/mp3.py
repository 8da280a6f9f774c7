"""Position prediction on CIFAR-10: a ViT without position embeddings predicts the position of each patch.

What: patches of 4x4 pixels, without position embeddings, attend to a quarter of all, and the position of each among the
64 is predicted (MP3, arXiv:2207.07611); ViT of width 128 and depth 4; random resized crops and flips. k-NN and a
linear probe on the features, with position embeddings, at each evaluation.
Command: python -m train mp3 --data.path DIR, on others --data.name NAME --data.path DIR
Hardware: any CPU.
Time: 4 minutes on two CPU cores, at 580 to 860 images a second
Expect: k-NN 31.8 %, linear probe 44.7 % with --seed 0; before any step (--steps 1 --optim.learning-rate 0) 27.1 and
41.4 %
"""

from train.config import Config, Model, Optim
from train.data.augment import Augment
from train.objectives.mp3 import Mp3
from train.sources.cifar10 import Cifar10

CONFIG = Config(
    steps=1000,
    batch_size=128,
    eval_every=250,
    save_every=250,
    log_every=20,
    data=Cifar10(),
    augment=Augment(resized_crop=(0.2, 1.0), flip=0.5),
    model=Model(
        'mp3',
        dict(patch_size=4, dim=128, depth=4, heads=4, dim_head=32, mlp_dim=256),
    ),
    objective=Mp3(),
    optim=Optim(learning_rate=1e-3, warmup=0.1, weight_decay=0.05),
)  # fmt: skip
