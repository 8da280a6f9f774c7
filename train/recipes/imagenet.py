"""A plain ViT on ImageNet-1k: 90 epochs of the better baseline of arXiv:2205.01580.

What: 1,281,167 photographs in 1,000 classes, random resized crops of 224x224 pixels, flips, RandAugment(2, 10) and
mixup 0.2; SimpleViT-S/16, with sine-cosine positions and the mean of its tokens, 22 million parameters; AdamW with
batches of 1,024. Other sizes by --model.name: simple_vit_{small,base,large}_patch16_224,
simple_vit_{huge,giant,22b}_patch14_224; vit_pytorch_ in place of simple_vit_ for learned positions and a class token;
or timm's vit_{tiny,small,base,large}_patch16_224. Blocks are scanned, so that every depth compiles in the time of one
block; --model.remat full where memory is short.

Command: python -m train imagenet --data.path DIR, with DIR/train/CLASS/*.JPEG and DIR/val/CLASS/*.JPEG; or
--data.name tfds --data.dataset imagenet2012 --data.path DIR. Before it, without the images,
python -m train plan imagenet --topology v5e:2x4 says whether it fits and what it takes

Hardware: a TPU slice or a box of GPUs, see docs/scale.md; --loader.threads by the cores of each host

Time: not measured here; docs/scale.md has what is to be expected at best

Expect: 76.5 % of the validation images after 90 epochs according to the paper; not measured here

Longer: --steps 375341 is 300 epochs (79.7 % according to the paper). With batches of another size --steps follows it:
90 * 1281167 / batch_size
"""

from train.config import Config, Loader, Model, Optim
from train.data.augment import Augment
from train.objectives.classification import Classification
from train.sources.image_folder import ImageFolder

STEPS = 90 * 1_281_167 // 1024

CONFIG = Config(
    steps=STEPS,
    batch_size=1024,
    eval_every=2500,
    save_every=2500,
    log_every=50,
    data=ImageFolder(path='data/imagenet'),
    augment=Augment(
        image_size=224, resized_crop=(0.05, 1.0), flip=0.5, randaugment=2, magnitude=10.0, magnitude_spread=0.0
    ),
    model=Model('simple_vit_small_patch16_224', dict(scan=True), dtype='bfloat16'),
    objective=Classification(label_smoothing=0.0, mixup=0.2),
    # The paper's decay of 1e-4 is not multiplied by the learning rate; here it is: 0.1 * 1e-3.
    optim=Optim(learning_rate=1e-3, warmup=10_000 / STEPS, weight_decay=0.1),
    loader=Loader(threads=16),
)
