import importlib
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from vit_flax.cli.main import main
from vit_flax.cli.main_test import arguments
from vit_flax.weights.files import read_arrays, write_arrays

# by name, so that types are not checked in there
CvT = importlib.import_module('vit_torch_ref.models.cvt').CvT
ViT = importlib.import_module('vit_torch_ref.models.vit').ViT

VISION_TRANSFORMER = dict(img_size=16, patch_size=8, num_classes=3, embed_dim=8, depth=2, num_heads=2)
VIT = dict(image_size=16, patch_size=8, num_classes=3, dim=8, depth=3, heads=2, mlp_dim=12, dim_head=4)
CVT = dict(num_classes=3) | {f's{i}_emb_dim': 4 * i for i in (1, 2, 3)} | {'s3_depth': 2}


@pytest.fixture
def convert(capsys):
    def convert(source, target, *args):
        code = main(['convert', str(source), str(target), *args])
        return code, capsys.readouterr().err

    return convert


@pytest.mark.parametrize('middle', ['flax.npz', 'flax.safetensors', 'flax'])
@pytest.mark.parametrize('last', ['back.pth', 'back.npz', 'back.safetensors'])
def test_there_and_back(convert, tmp_path, middle, last):
    """Statistics and a 64-bit counter, in a CvT."""
    model = CvT(**CVT)
    model(torch.randn(2, 3, 64, 64))
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    args = '--model', 'cvt', *arguments(CVT)
    assert convert(tmp_path / 'a.pth', tmp_path / middle, *args)[0] == 0
    assert convert(tmp_path / middle, tmp_path / last, *args)[0] == 0
    same(read_arrays(tmp_path / 'a.pth'), read_arrays(tmp_path / last))


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape
        assert one[name].tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('scan', ['true', 'false'])
def test_other_dtypes_and_a_scanned_trunk(convert, tmp_path, dtype, scan):
    torch.save(ViT(**VIT).to(dtype).state_dict(), tmp_path / 'a.pth')
    args = '--model', 'vit', *arguments(VIT), '--arg', f'scan={scan}'
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.npz', *args)[0] == 0
    assert convert(tmp_path / 'b.npz', tmp_path / 'c.pth', *args)[0] == 0
    flax = read_arrays(tmp_path / 'b.npz')
    assert ('params/transformer/block/attention/to_qkv/kernel' in flax) == (scan == 'true')
    narrow = {torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16, torch.float64: np.float64}[dtype]
    assert {array.dtype for array in flax.values()} == {np.dtype(narrow)}
    same(read_arrays(tmp_path / 'a.pth'), read_arrays(tmp_path / 'c.pth'))


def test_of_a_training_run(convert, tmp_path):
    """The optimizer's state is left out, other collections are found."""
    model = CvT(**CVT)
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    args = '--model', 'cvt', *arguments(CVT)
    convert(tmp_path / 'a.pth', tmp_path / 'b.npz', *args)
    state = {
        name if name.startswith('params') else f'collections/{name}': array
        for name, array in read_arrays(tmp_path / 'b.npz').items()
    }
    write_arrays(tmp_path / 'run', state | {'opt_state/0/mu': np.zeros(3), 'step': np.array(7)})
    assert convert(tmp_path / 'run', tmp_path / 'c.pth', *args) == (0, '')
    same(read_arrays(tmp_path / 'a.pth'), read_arrays(tmp_path / 'c.pth'))


def test_own_names(convert, tmp_path):
    state = ViT(**VIT).state_dict()
    torch.save({f'module.{name}': tensor for name, tensor in state.items()}, tmp_path / 'a.pth')
    (tmp_path / 'rows.toml').write_text('names = {"module" = ""}')
    args = '--model', 'vit', *arguments(VIT), '--rows', str(tmp_path / 'rows.toml')
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.npz', *args)[0] == 0


def test_mistakes(convert, tmp_path):
    torch.save(ViT(**VIT).state_dict(), tmp_path / 'a.pth')
    torch.save({'model': {'a.weight': torch.ones(2)}}, tmp_path / 'nested.pth')
    args = '--model', 'vit', *arguments(VIT)
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.npz', *args)[0] == 0
    before = (tmp_path / 'b.npz').read_bytes()

    def refused(source, target, *args):
        code, error = convert(tmp_path / source, tmp_path / target, *args)
        assert code == 2
        return error

    assert '--force replaces it' in refused('a.pth', 'b.npz', *args)
    assert (tmp_path / 'b.npz').read_bytes() == before
    assert 'torch is not for Flax variables' in refused('a.pth', 'c.pth', *args)
    assert "orbax is not for torch's names" in refused('b.npz', 'c', *args)
    (tmp_path / 'dup.npz').write_bytes(before)
    with zipfile.ZipFile(tmp_path / 'dup.npz', 'a') as archive:
        archive.writestr('collections/params/cls_token.npy', archive.read('params/cls_token.npy'))
    assert "'params/cls_token' is there twice" in refused('dup.npz', 'c.pth', *args)
    (tmp_path / 'dup.npz').unlink()
    assert 'cannot be written: File exists' in refused('a.pth', 'b.npz/c.npz', *args)
    assert 'cannot be written: File name too long' in refused('a.pth', 'n' * 300 + '.npz', *args)
    assert 'a device or pipe: it is not replaced' in refused('a.pth', '/dev/full', *args, '--force')
    assert 'OUT is IN' in refused('a.pth', 'a.pth', *args, '--force')
    assert 'give --key NAME with one of model' in refused('nested.pth', 'c.npz', *args)
    assert 'what kind of file' in refused('a.pth', 'c.h5', *args)
    assert 'use one of vit_pytorch' in refused('a.pth', 'c.npz', *args, '--source', 'lucidrains')
    wrong = ['--model', 'vit', *arguments(VIT | {'depth': 2})]
    assert 'unexpected: transformer.layers.2' in refused('a.pth', 'c.npz', *wrong)
    assert 'the model has no params/transformer/block_2' in refused('b.npz', 'c.pth', *wrong)
    assert 'not divisible' in refused('a.pth', 'c.npz', '--model', 'vit', *arguments(VIT | {'patch_size': 5}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.pth', 'b.npz', 'nested.pth']
    assert 'missing: cls_token' in refused('nested.pth', 'c.npz', *args, '--key', 'model')


def test_what_is_around_a_state_dict_is_said(convert, tmp_path):
    state = {f'module.{name}': tensor for name, tensor in ViT(**VIT).state_dict().items()}
    torch.save({'model': state, 'epoch': 3, 'optimizer': {'state': {}}}, tmp_path / 'a.pth')
    args = '--model', 'vit', *arguments(VIT)
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.npz', *args) == (0, "read 45 arrays below 'model/module.'\n")


def test_other_sources(convert, tmp_path, capsys):
    """By way of names of Hugging Face, Google and Flax; a file of another source is named."""
    timm = importlib.import_module('parity_tests.timm_side').VisionTransformer(**VISION_TRANSFORMER)
    torch.save(timm.state_dict(), tmp_path / 'a.pth')
    args = '--model', 'vision_transformer', *arguments(VISION_TRANSFORMER)
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.npz', *args) == (0, '')
    for source, name in (('huggingface', 'c.safetensors'), ('google', 'd.npz'), ('torchvision', 'e.msgpack')):
        assert convert(tmp_path / 'b.npz', tmp_path / name, *args, '--source', source) == (0, '')
        assert convert(tmp_path / name, tmp_path / f'{source}.npz', *args, '--source', source) == (0, '')
        same(read_arrays(tmp_path / 'b.npz'), read_arrays(tmp_path / f'{source}.npz'))
        code, error = convert(tmp_path / name, tmp_path / 'f.npz', *args)
        assert code == 2 and f"source='timm': these are names of {source} (" in error
        assert main(['inspect', str(tmp_path / name)]) == 0
        assert f'names of {source} (' in capsys.readouterr().out
