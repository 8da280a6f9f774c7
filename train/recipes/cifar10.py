"""A compact convolutional transformer on CIFAR-10, from scratch."""

from train.config import Config, Model, Optim
from train.data.augment import Augment
from train.objectives.classification import Classification
from train.sources.cifar10 import Cifar10

CONFIG = Config(
    steps=4000,
    batch_size=128,
    eval_every=500,
    save_every=200,
    log_every=20,
    data=Cifar10(),
    augment=Augment(pad_crop=4, flip=0.5),
    model=Model(
        'cct',
        dict(
            embedding_dim=128, n_conv_layers=2, kernel_size=3, stride=1, padding=1, num_layers=2, num_heads=2,
            mlp_ratio=1.0, positional_embedding='learnable', attention_dropout=0.0, stochastic_depth_rate=0.0,
        ),
    ),
    objective=Classification(label_smoothing=0.1),
    optim=Optim(learning_rate=2e-3, warmup=0.05, weight_decay=0.05, ema=0.999),
)  # fmt: skip
