import pytest

from vit_flax.models.vision_transformer import VisionTransformer
from vit_flax.models.vit import ViT
from vit_flax.objectives.encoder import has_class_token
from vit_flax.objectives.mae import MAE

SIZE = dict(image_size=16, patch_size=8, num_classes=3, dim=8, depth=1, heads=2, mlp_dim=8)


@pytest.mark.parametrize(
    'encoder, has_one',
    [
        (ViT(**SIZE), True),  # type: ignore[arg-type]
        (ViT(**SIZE, pool='mean'), False),  # type: ignore[arg-type]
        (VisionTransformer(img_size=16, patch_size=8, embed_dim=12), True),
        (VisionTransformer(img_size=16, patch_size=8, embed_dim=12, class_token=False, global_pool='avg'), False),
    ],
)
def test_the_paper_has_a_class_token_if_the_encoder_has_one(encoder, has_one):
    assert has_class_token(encoder) == has_one
    assert MAE.paper(encoder, decoder_dim=16).class_token == has_one
