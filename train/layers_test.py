"""Every architecture falls into layers: its embedding, its blocks in order, its head."""

import jax
import numpy as np
import pytest

from parity_tests.bridge import example_inputs
from parity_tests.case import Case, first_cases, others_exhaustive
from train.layers import depths
from train.optim import paths
from vit_flax.models.cct import CCT
from vit_flax.models.vit import ViT

IMAGES = np.zeros((1, 8, 8, 3), np.float32)


def test_depths_of_a_vit():
    found = depths(ViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=2, heads=2, mlp_dim=8), IMAGES)
    assert {path: int(depth) for path, depth in found.items() if path.endswith(('kernel', 'embedding', 'token'))} == {
        'cls_token': 0,
        'pos_embedding': 0,
        'to_patch_embedding/projection/kernel': 0,
        'transformer/block_0/attention/to_qkv/kernel': 1,
        'transformer/block_0/attention/to_out/kernel': 1,
        'transformer/block_0/feedforward/expand/kernel': 1,
        'transformer/block_0/feedforward/contract/kernel': 1,
        'transformer/block_1/attention/to_qkv/kernel': 2,
        'transformer/block_1/attention/to_out/kernel': 2,
        'transformer/block_1/feedforward/expand/kernel': 2,
        'transformer/block_1/feedforward/contract/kernel': 2,
        'mlp_head/kernel': 3,
    }


def test_scanned_layers_have_a_depth_each():
    model = ViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=3, heads=2, mlp_dim=8, scan=True)
    found = depths(model, IMAGES)
    assert set(found) == set(paths(jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']))
    np.testing.assert_array_equal(found['transformer/block/attention/to_qkv/kernel'], [1, 2, 3])
    assert found['pos_embedding'] == 0 and found['mlp_head/kernel'] == found['transformer/norm/scale'] == 4


def test_a_tokenizer_comes_before_the_blocks():
    model = CCT(img_size=8, embedding_dim=8, n_conv_layers=1, num_layers=2, num_heads=2, num_classes=3)
    found = depths(model, IMAGES)
    assert found['tokenizer/conv_0/kernel'] == 0
    assert {int(depth) for path, depth in found.items() if 'attention_pool' in path} == {3}


@pytest.mark.parametrize('case', others_exhaustive(first_cases()), ids=lambda case: case.stem)
def test_every_parameter_of_every_model_has_a_depth(case: Case):
    found = depths(case.flax_model(), *example_inputs(case))
    used = sorted({int(number) for depth in found.values() for number in depth.ravel()})
    assert used == list(range(len(used))) and len(used) >= 2
    # Linear layers at the very end are the head.
    assert {int(found[path].max()) for path in found if path.startswith(('mlp_head/', 'linear_head/'))} <= {used[-1]}
