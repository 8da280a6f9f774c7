"""A masked autoencoder on CIFAR-10: a ViT that learns from images without labels.

What: three quarters of the 8x8 patches of 4x4 pixels are masked, and the mean squared error of their normalised pixels
is minimised (MAE, arXiv:2111.06377); ViT of width 128 and depth 4 as encoder, two blocks of width 64 as decoder; random
resized crops and flips. k-NN and a linear probe on the mean of its tokens at each evaluation.
Command: python -m train mae --data.path DIR, on others --data.name NAME --data.path DIR; then
python -m train RECIPE --init runs/mae to fine-tune the encoder
Hardware: any CPU.
Time: 12 minutes on two CPU cores that had other work to do for half of it; alone they train 870 to 1,020 images a
second
Expect: k-NN 37.4 and 37.7 %, linear probe 49.0 and 50.6 % validation accuracy with --seed 0 and 1; before any step
(--steps 1 --optim.learning-rate 0) they are 25.7 and 26.1 %, 38.5 and 38.7 %
"""

from train.config import Config, Model, Optim
from train.data.augment import Augment
from train.objectives.mae import Mae
from train.sources.cifar10 import Cifar10

CONFIG = Config(
    steps=3000,
    batch_size=128,
    eval_every=500,
    save_every=500,
    log_every=20,
    data=Cifar10(),
    augment=Augment(resized_crop=(0.2, 1.0), flip=0.5),
    model=Model('vit', dict(patch_size=4, dim=128, depth=4, heads=4, dim_head=32, mlp_dim=256, pool='mean')),
    objective=Mae(decoder_dim=64, decoder_depth=2, decoder_heads=4, decoder_dim_head=16),
    optim=Optim(learning_rate=1.5e-3, warmup=0.1, weight_decay=0.05, beta2=0.95),
)
