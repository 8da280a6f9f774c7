"""Published weights of SigLIP go into the same places as by upstream's `load_siglip`."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import vit_flax
from parity_tests.bridge import relative_error
from parity_tests.cases.vat_siglip import EYE, SMALL
from parity_tests.upstream import upstream_module
from vit_flax.models.vat_siglip import SigLIP

LINEAR = {
    'layer_norm1': (22,),
    'self_attn.q_proj': (21, 22),
    'self_attn.k_proj': (21, 22),
    'self_attn.v_proj': (21, 22),
    'self_attn.out_proj': (22, 21),
    'layer_norm2': (22,),
    'mlp.fc1': (28, 22),
    'mlp.fc2': (22, 28),
}


def published(prefix: str) -> dict[str, np.ndarray]:
    """Random weights in the names and shapes of Hugging Face, with what is no part of the image encoder."""
    shapes = {f'encoder.layers.{i}.{name}': shape for i in range(2) for name, shape in LINEAR.items()}
    shapes |= {'embeddings.patch_embedding': (22, 3, 6, 6), 'post_layernorm': (22,), 'head.mlp.fc1': (5, 22)}
    names = {f'{name}.weight': shape for name, shape in shapes.items()}
    names |= {f'{name}.bias': shape[:1] for name, shape in shapes.items()}
    names['embeddings.position_embedding.weight'] = (4, 22)
    rng = np.random.default_rng(0)
    weights = {prefix + name: rng.normal(size=shape).astype(np.float32) for name, shape in names.items()}
    if prefix:
        weights['text_model.encoder.layers.0.layer_norm1.weight'] = np.ones(3, np.float32)
    return weights


@pytest.mark.parametrize(
    'prefix', ['', 'vision_model.', 'paligemma_with_expert.paligemma.model.vision_tower.vision_model.']
)
def test_same_places_as_upstream(tmp_path, prefix):
    weights = published(prefix)
    save_file(weights, tmp_path / 'model.safetensors')
    theirs = upstream_module('vat_siglip').SigLIPVAT(**SMALL)
    theirs.load_siglip(folder=tmp_path)
    model = SigLIP(**EYE)
    variables = vit_flax.from_torch(model, weights, source='huggingface')
    want, got = theirs.vit.state_dict(), vit_flax.to_torch(model, variables, source='vit_pytorch')
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value.numpy(), err_msg=name)

    written = vit_flax.to_torch(model, variables, source='huggingface')
    given = {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}
    given = {name: array for name, array in given.items() if not name.startswith(('head.', 'text_model.'))}
    assert written.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)
    images = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype(np.float32)
    tokens = theirs.vit(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).detach().numpy()
    assert relative_error(model.apply(variables, images), tokens) <= 1e-5


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match=r"source='huggingface': the state dict has none of the networks of .*SigLIP"):
        vit_flax.from_torch(SigLIP(**EYE), {'visual.ln_post.weight': np.ones(3)}, source='huggingface')
