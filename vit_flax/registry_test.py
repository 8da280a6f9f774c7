import subprocess
import sys

import pytest

import vit_flax
from vit_flax.registry import model_info, presets, stems


def test_names_are_stems_and_presets():
    assert {'vit', 'simple_vit', 'cvt', 'xcit', 'vit_base_patch16_224'} <= set(vit_flax.list_models())
    assert not set(stems()) & set(presets())
    for stem in stems():
        model_info(stem).build(**model_info(stem).paper_size)


def test_arguments_win_over_a_preset():
    model = vit_flax.create_model('vit_pytorch_small_patch16_224', num_classes=7, scan=True)
    assert (model.num_classes, model.dim, model.scan) == (7, 384, True)
    assert type(model) is vit_flax.models.vit.ViT


def test_names_of_timm_are_timms_networks():
    model = vit_flax.create_model('vit_base_patch16_224')
    assert type(model) is vit_flax.models.vision_transformer.VisionTransformer and model.num_classes == 1000
    tagged = vit_flax.create_model('vit_base_patch16_224.augreg_in21k', in_chans=1)
    assert (tagged.num_classes, tagged.in_chans) == (21843, 1)
    assert vit_flax.create_model('vit_base_patch14_dinov2.lvd142m').num_classes == 0
    with pytest.raises(ValueError, match=r"no model is called 'vit_base_patch16_224\.augreg'"):
        vit_flax.create_model('vit_base_patch16_224.augreg')


def test_names_are_filtered_by_a_shell_pattern():
    assert vit_flax.list_models('simple_vit_with_q*') == ['simple_vit_with_qk_norm']
    assert 'vit_small_patch14_dinov2' in vit_flax.list_models('*dinov2*')
    assert 'vit_small_patch14_dinov2.lvd142m' in vit_flax.list_models('*dinov2*.*')
    assert vit_flax.list_models('swin*') == []


def test_unknown_attributes_are_attribute_errors():
    for module in (vit_flax, vit_flax.models):
        with pytest.raises(AttributeError, match='nonsense'):
            _ = module.nonsense


def test_main_classes_are_attributes_of_the_package():
    """Of those that share a name the plain one has it; nothing else is loaded for it."""
    from vit_flax import CCT, MAE, Extractor, SimpleViT, ViT

    found = (ViT, SimpleViT, CCT, MAE, Extractor)
    assert [each.__module__.partition('.')[2] for each in found] == [
        'models.vit',
        'models.simple_vit',
        'models.cct',
        'objectives.mae',
        'wrappers.extractor',
    ]
    for stem in stems():
        name = model_info(stem).build.__name__
        plain = stem if stem.replace('_', '') == name.lower() else None
        home = getattr(vit_flax, name).__module__
        assert home == f'vit_flax.models.{plain}' if plain else home.startswith('vit_flax.models.')
        assert name in dir(vit_flax)


def test_importing_the_package_loads_nothing():
    """What a name needs is loaded when it is used."""
    code = 'import sys, vit_flax; sys.exit("jax" in sys.modules or "flax" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)
