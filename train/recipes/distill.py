"""A ViT on CIFAR-10 that learns from a convolutional teacher that was trained here.

What: the class token learns the labels, a distillation token the probabilities of the teacher, which gets the same
crops and flips (DeiT, arXiv:2012.12877, which learns its most likely class alone: --objective.hard); ViT of width 128
and depth 4 with 8x8 patches; teacher: a finished run of classes, such as the recipe cifar10's compact convolutional
transformer, or fashion_mnist's for that data set.
Command: python -m train distill --data.path DIR --objective.teacher runs/cifar10; without a teacher, to compare:
python -m train distill --data.path DIR --objective.alpha 0; on Fashion-MNIST also --data.name fashion_mnist
--model.patch-size 7
Hardware: any CPU.
Time: 7 minutes on two CPU cores, at 900 to 1,200 images a second, 4 without a teacher
Expect: 62.1 and 61.9 % validation accuracy with --seed 0 and 1, alone 59.8 and 60.1 %; the teacher, of cifar10
--steps 8000, has 84.4 %. Fewer steps show less: with 4x4 patches, 1,000 steps and --objective.alpha 0.5 it is 57.4 %
(--objective.temperature 3) or 57.1 % (--objective.hard), alone 56.6 %, all with --seed 0
"""

from train.config import Config, Model, Optim
from train.data.augment import Augment
from train.objectives.distill import Distill
from train.sources.cifar10 import Cifar10

CONFIG = Config(
    steps=3000,
    batch_size=128,
    eval_every=500,
    save_every=500,
    log_every=20,
    data=Cifar10(),
    augment=Augment(pad_crop=4, flip=0.5),
    model=Model(
        'distill',
        dict(patch_size=8, dim=128, depth=4, heads=4, dim_head=32, mlp_dim=256),
    ),
    objective=Distill(alpha=0.8, hard=False, temperature=1.0, label_smoothing=0.1),
    optim=Optim(learning_rate=1e-3, warmup=0.1, weight_decay=0.05),
)  # fmt: skip
