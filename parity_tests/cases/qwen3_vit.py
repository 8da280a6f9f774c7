from parity_tests.case import Case, Refused, image
from parity_tests.cases import qwen3_vit_encoder

SMALL = {**qwen3_vit_encoder.SMALL, 'num_classes': 7}
IMAGES = qwen3_vit_encoder.IMAGES
narrow = qwen3_vit_encoder.narrow

CASES = [
    Case(name='mean', kwargs=SMALL, inputs=IMAGES, parameters=10_323),
    Case(name='squares', kwargs={**SMALL, 'encoder_pool': 'merge'}, inputs=image(2, 8, 32, 3), parameters=20_659),
    Case(
        name='tokens_without_norm',
        kwargs={**SMALL, 'global_pool': '', 'final_norm': False},
        inputs=IMAGES,
        parameters=10_323,
    ),
]

REFUSED = [
    Refused(
        says='are not divisible by merge_size=2',
        kwargs={**SMALL, 'encoder_pool': 'merge'},
        inputs=image(2, 12, 24, 3),
    ),
    Refused(says="encoder_pool='avg' must be one of", kwargs={**SMALL, 'encoder_pool': 'avg'}, inputs=IMAGES),
]
