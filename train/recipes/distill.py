"""A ViT on CIFAR-10 that learns from a convolutional teacher that was trained here.

What: the class token learns the labels, a distillation token what the teacher finds likeliest (DeiT, arXiv:2012.12877),
whose network sees the same crops and mirror images; ViT of width 128 and depth 4 with 4x4 patches; teacher: a finished
run of classes, such as the recipe cifar10's compact convolutional transformer, or fashion_mnist's for that data set.
Command: python -m train distill --data.path DIR --objective.teacher runs/cifar10; without a teacher, to compare:
python -m train distill --data.path DIR --objective.alpha 0; on others --data.name NAME --data.path DIR
Hardware: any CPU.
Time: not measured yet
Expect: not measured yet
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
