"""EsViT on CIFAR-10: DINO for networks that end in a feature map, whose positions are compared too.

What: beside the whole view, each position of the student's feature map predicts the teacher's output at the most
similar position (EsViT, arXiv:2106.09785); two large crops and four small ones of half the size, 512 prototypes; a
small CvT (arXiv:2103.15808) with a map of 4x4 positions. k-NN and a linear probe on the teacher's features at each
evaluation.
Command: python -m train esvit --data.path DIR, on others --data.name NAME --data.path DIR
Hardware: any CPU.
Time: 7 minutes on two CPU cores, at 105 to 115 images a second
Expect: k-NN 33.7 %, linear probe 40.6 % with --seed 0; before any step (--steps 1 --optim.learning-rate 0) 31.9 and
36.4 %
"""

from train.config import Config, Model, Optim
from train.objectives.esvit import EsVit
from train.sources.cifar10 import Cifar10

CONFIG = Config(
    steps=600,
    batch_size=64,
    eval_every=200,
    save_every=200,
    log_every=20,
    data=Cifar10(),
    model=Model(
        'cvt',
        dict(
            s1_emb_dim=32, s1_emb_kernel=7, s1_emb_stride=4, s1_heads=1, s1_depth=1, s1_mlp_mult=2,
            s2_emb_dim=64, s2_heads=1, s2_depth=1, s2_mlp_mult=2,
            s3_emb_dim=128, s3_emb_stride=1, s3_heads=2, s3_depth=2, s3_mlp_mult=2,
        ),
    ),
    objective=EsVit(
        local_views=4, local_size=16, local_scale=0.5, prototypes=512, projection_hidden=512, projection_bottleneck=64,
        teacher_temp=0.03, teacher_temp_start=0.03, momentum=0.98,
    ),
    optim=Optim(learning_rate=1e-3, warmup=0.1, weight_decay=0.04, weight_decay_end=0.1, clip=3.0),
)  # fmt: skip
