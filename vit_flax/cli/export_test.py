import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax import export

from vit_flax.cli.main_test import arguments, run  # noqa: F401  a fixture
from vit_flax.export import to_stablehlo
from vit_flax.models.vit import ViT
from vit_flax.weights import to_torch
from vit_flax.weights.files import read_arrays, write_arrays

VIT: dict[str, Any] = dict(image_size=16, patch_size=8, num_classes=3, dim=8, depth=2, heads=2, mlp_dim=12, dim_head=4)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file with the names of PyTorch, and the logits of four images."""
    images = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
    model = ViT(**VIT)
    variables = model.init(jax.random.key(5), images)
    path = tmp_path_factory.mktemp('weights') / 'vit.safetensors'
    write_arrays(path, to_torch(model, variables, source='vit_pytorch'))
    return path, images, np.asarray(model.apply(variables, images))


# What a user pastes, in a process in which this library cannot be imported.
ELSEWHERE = """
import sys
sys.modules['vit_flax'] = sys.modules['flax'] = None
import numpy
images = numpy.load('images.npy')
{printed}
numpy.save('found.npy', outputs[0] if isinstance(outputs, list) else outputs)
"""


@pytest.mark.parametrize('format', ['stablehlo', 'onnx'])
def test_runs_without_this_library_as_it_says(run, tmp_path, weights, format):  # noqa: F811
    if format == 'onnx':
        pytest.importorskip('jax2onnx', reason='jax2onnx, which needs an older orbax-checkpoint, is not installed')
    path, images, wanted = weights
    out = tmp_path / 'served'
    code, text, err = run('export', path, out, '--format', format, '--model', 'vit', *arguments(VIT))
    assert (code, err) == (0, '')
    assert 'differs from the model by' in text and sorted(file.name for file in tmp_path.iterdir()) == ['served']
    np.save(tmp_path / 'images.npy', images)
    done = subprocess.run(
        [sys.executable, '-c', ELSEWHERE.format(printed=text.partition('\n\n')[2])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / 'found.npy'), wanted, atol=1e-5)
    config = json.loads((out / 'config.json').read_text())
    assert config['model'] == 'vit' and config['arguments'] == VIT and config['weights'] == path.name
    assert config['inputs'] == [{'shape': ['b', 16, 16, 3], 'dtype': 'float32'}]
    assert config['outputs'] == [{'shape': ['b', 3], 'dtype': 'float32'}]


def test_weights_alone_and_flax_names(run, tmp_path, weights):  # noqa: F811
    path, *_ = weights
    first, again = tmp_path / 'first', tmp_path / 'again'
    model = ['--format', 'safetensors', '--model', 'vit', *arguments(VIT)]
    assert run('export', path, first, *model)[0] == 0
    assert sorted(file.name for file in first.iterdir()) == ['config.json', 'weights.safetensors']
    assert run('export', first / 'weights.safetensors', again, *model)[0] == 0
    one, other = (read_arrays(folder / 'weights.safetensors') for folder in (first, again))
    assert one.keys() == other.keys() and 'params/transformer/block_1/attention/to_qkv/kernel' in one
    assert all((one[name] == other[name]).all() for name in one)


def test_a_name_is_drawn_and_a_folder_of_ours_is_replaced(run, tmp_path):  # noqa: F811
    def drawn(*more):
        code, _, err = run('export', 'vit', tmp_path / 'out', '--format', 'safetensors', *arguments(VIT), *more)
        return code, err, json.loads((tmp_path / 'out/config.json').read_text())['weights']

    assert drawn() == (0, '', 'drawn, seed 0')
    before = read_arrays(tmp_path / 'out/weights.safetensors')
    code, err, _ = drawn('--seed', '1')
    assert code == 2 and 'is there already: --force replaces it' in err
    assert drawn('--seed', '1', '--force') == (0, '', 'drawn, seed 1')
    after = read_arrays(tmp_path / 'out/weights.safetensors')
    name = 'params/transformer/block_0/attention/to_qkv/kernel'
    assert before.keys() == after.keys() and not np.allclose(before[name], after[name])


def test_one_platform_and_a_fixed_batch(run, tmp_path):  # noqa: F811
    options = '--platform', 'tpu', '--batch', '3'
    code, text, _ = run('export', 'vit', tmp_path / 'out', *options, *arguments(VIT))
    assert code == 0 and 'differs' not in text  # it does not run here
    program = export.deserialize(bytearray((tmp_path / 'out/model.stablehlo').read_bytes()))
    assert program.platforms == ('tpu',) and program.in_avals[-1].shape == (3, 16, 16, 3)
    assert json.loads((tmp_path / 'out/config.json').read_text())['inputs'][0]['shape'][0] == 3


@pytest.mark.parametrize(
    'args, says',
    [
        (['no_such_file'], "'no_such_file' is neither a file nor a model: "),
        (['vti'], "'vti' is neither a file nor a model: did you mean 'vit'?"),
        (['vit', '--model', 'cvt'], "--model 'cvt': 'vit' names the model already"),
        (['vit', *arguments(VIT), '--platform', 'cpu,abacus'], "['cpu', 'abacus'] must be some of cpu, cuda, tpu"),
        (['vit', *arguments(VIT), '--batch', '0'], '--batch 0 must be at least 1'),
        (['vit', '--arg', 'image_size=16'], "model 'vit' also needs --arg "),
    ],
)
def test_refused_in_one_line(run, tmp_path, args, says):  # noqa: F811
    code, out, err = run('export', args[0], tmp_path / 'out', *args[1:])
    assert code == 2 and says in err and err.count('\n') == 1 and not out
    assert not list(tmp_path.iterdir())


def test_a_folder_of_others_is_left_alone(run, tmp_path, weights):  # noqa: F811
    (tmp_path / 'mine').mkdir()
    Path(tmp_path / 'mine/config.json').write_text('{"format": 1}')
    code, _, err = run('export', 'vit', tmp_path / 'mine', '--force', *arguments(VIT))
    assert code == 2 and 'is no folder that this command wrote' in err
    code, _, err = run('export', weights[0], tmp_path / 'out', *arguments(VIT))
    assert code == 2 and 'of which model are the weights' in err


def test_missing_packages_are_named(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, 'jax2onnx', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    code, _, err = run('export', 'vit', tmp_path / 'out', '--format', 'onnx', *arguments(VIT))
    assert code == 2 and "needs jax2onnx and onnxruntime: pip install 'vit-linen[onnx]'" in err


def test_no_platform_is_refused():
    with pytest.raises(ValueError, match=r'platforms=\[\] must be some of cpu, cuda, tpu'):
        to_stablehlo(ViT(**VIT), {}, platforms=())
