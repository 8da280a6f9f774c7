"""Fine-tuning pretrained weights on images of your own.

What: any network of `vit_flax.from_pretrained` or of a run of yours, with a new head for your classes; random resized
crops, flips, label smoothing; AdamW with layer-wise learning rate decay 0.75 (arXiv:2106.08254). Size and
normalisation of the images, and the arguments of the network, are those of the weights.

Command: python -m train finetune --init vit_small_patch16_224.augreg_in21k_ft_in1k --data.path DIR, with
DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg. --init also takes google/vit-base-patch16-224 and
other repositories of the Hugging Face hub, a folder with config.json and model.safetensors, and a run such as runs/mae

Hardware: any; a few hundred images of 224x224 and a small network take minutes on a CPU

Time: by the network: docs/speed.md

Expect: not measured on published weights here

Longer: --steps; a larger --batch-size with a larger --optim.learning-rate
"""

from train.config import Config, Model, Optim
from train.data.augment import Augment
from train.objectives.classification import Classification
from train.sources.image_folder import ImageFolder

CONFIG = Config(
    steps=500,
    batch_size=32,
    eval_every=50,
    save_every=50,
    data=ImageFolder(path='data/images'),
    augment=Augment(resized_crop=(0.3, 1.0), flip=0.5),
    # That of --init.
    model=Model('', {}),
    objective=Classification(label_smoothing=0.1),
    optim=Optim(learning_rate=5e-4, warmup=0.1, weight_decay=0.05, layer_decay=0.75),
)
