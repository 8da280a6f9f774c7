import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vit_flax.cli import torch_side
from vit_flax.cli.main import main
from vit_flax.cli.main_test import arguments
from vit_flax.cli.taps import Difference, difference

# by name, so that types are not checked in there
witness = importlib.import_module('vit_torch_ref.models.vit')

VIT = dict(image_size=16, patch_size=8, num_classes=3, dim=8, depth=2, heads=2, mlp_dim=12, dim_head=4)
EXAMPLE = Path(__file__).parents[2] / 'examples' / 'compare_my_model'


@pytest.fixture
def compare(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(witness.ViT(**VIT).state_dict(), 'vit.pth')

    def compare(*args, checkpoint='vit.pth', size=VIT):
        code = main(['compare', checkpoint, '--model', 'vit', *arguments(size), *args])
        out, err = capsys.readouterr()
        return code, out, err

    return compare


WITNESS = ('--torch-class', 'vit_torch_ref.models.vit:ViT')


def test_equal(compare):
    code, out, _ = compare(*WITNESS)
    assert code == 0
    assert re.search(r'^EQUAL: 24 layers compared; the outputs differ by \S+e-1\d, within 1e-09$', out, re.MULTILINE)
    assert re.search(
        r'^   transformer/block_1/attention/to_qkv +transformer\.layers\.1\.0\.to_qkv +2 5 24 ', out, re.MULTILINE
    )
    assert jnp.asarray(1.0).dtype == jnp.float32, 'a setting was left behind'
    assert torch.get_default_dtype() == torch.float32


def test_single_precision_and_other_trunks(compare):
    assert compare(*WITNESS, '--dtype', 'float32', '--images', '1')[0] == 0
    assert compare(*WITNESS, '--arg', 'scan=true', '--arg', 'remat=true')[0] == 0


def test_vit_pytorch_is_the_default(compare):
    assert compare()[0] == 0


def test_weights_of_flax(compare, capsys):
    """The other direction: what was trained in Flax, checked in torch; a scanned trunk too."""
    for scan in ('true', 'false'):
        args = ['--model', 'vit', *arguments(VIT), '--arg', f'scan={scan}', '--force']
        assert main(['convert', 'vit.pth', 'flax.npz', *args]) == 0
        assert compare(*WITNESS, '--arg', f'scan={scan}', checkpoint='flax.npz')[0] == 0


def test_own_images(compare):
    np.save('images.npy', np.random.default_rng(1).normal(size=(3, 16, 16, 3)))
    assert '3 5 24' in compare(*WITNESS, '--images', 'images.npy')[1]
    np.save('torch.npy', np.zeros((3, 3, 16, 16)))
    np.save('bytes.npy', np.zeros((3, 16, 16, 3), np.uint8))
    np.save('pickle.npy', np.array([None]))
    for name, says in (('torch', 'channels come last'), ('bytes', 'floating point'), ('pickle', 'allow_pickle')):
        code, _, err = compare(*WITNESS, '--images', f'{name}.npy')
        assert code == 2 and says in err


PLANTED = {
    'activation': ('nn.GELU()', "nn.GELU(approximate='tanh')", 'transformer/block_0/feedforward'),
    'epsilon': ('nn.LayerNorm(dim)', 'nn.LayerNorm(dim, eps=1e-3)', 'to_patch_embedding/norm'),
    'scale': ('dim_head**-0.5', 'dim_head**-0.25', 'transformer/block_0/attention'),
    'patches': ('(p q c)', '(q p c)', 'to_patch_embedding/'),
}


@pytest.mark.parametrize('mistake', PLANTED)
def test_a_planted_mistake_is_named(compare, mistake):
    """The PyTorch reference's source with one change."""
    root = Path(witness.ViT.__init__.__code__.co_filename).parents[1]
    right, wrong, layer = PLANTED[mistake]
    shutil.copytree(root, 'mine', ignore=shutil.ignore_patterns('__pycache__'))
    changed = 0
    for path in Path('mine').rglob('*.py'):
        text = path.read_text().replace('vit_torch_ref', 'mine')
        if path.name in ('vit.py', 'blocks.py'):
            changed += right in text
            text = text.replace(right, wrong)
        path.write_text(text)
    assert changed, f'the reference does not say {right}'
    try:
        code, out, _ = compare('--torch-class', 'mine.models.vit:ViT')
    finally:
        for name in [name for name in sys.modules if name.partition('.')[0] == 'mine']:
            del sys.modules[name]
    assert code == 1
    assert f'output does not is {layer}' in out, out
    assert re.search(r'^> +' + re.escape(layer), out, re.MULTILINE)


@pytest.mark.parametrize(
    'args, says',
    [
        (('--torch-class', 'nonsense'), 'must be package.module:Class or file.py:Class'),
        (('--torch-class', 'no.such:Class'), 'no.such cannot be imported'),
        (('--torch-class', 'vit_torch_ref.models.vit:VIT'), "no class 'VIT': did you mean 'ViT'"),
        (('--torch-class', 'none.py:ViT'), 'there is no file none.py'),
        ((*WITNESS, '--torch-arg', 'dpeth=3'), "no argument 'dpeth': did you mean 'depth'"),
        ((*WITNESS, '--torch-arg', 'depth=3'), 'does not fit the torch class'),
        ((*WITNESS, '--torch-arg', 'heads=[]'), 'does not take these arguments: TypeError'),
        ((*WITNESS, '--tolerance', '-1'), 'must not be negative'),
        ((*WITNESS, '--tolerance', 'nan'), 'must be a finite number'),
        ((*WITNESS, '--tolerance', 'inf'), 'must be a finite number'),
        ((*WITNESS, '--images', '0'), 'at least one'),
        ((*WITNESS, '--images', '9' * 5000), 'at most 9999'),
        ((*WITNESS, '--images', 'n' * 5000), 'File name too long'),
        ((*WITNESS, '--images', '/dev/zero'), 'must be a number of images or a file .npy'),
        ((*WITNESS, '--rows', '/dev/zero'), 'is no file'),
        ((*WITNESS, '--rows', 'n' * 5000), 'File name too long'),
        ((*WITNESS, '--images', 'cat.jpg'), 'must be a number of images or a file .npy'),
        ((*WITNESS, '--rows', 'none.toml'), 'No such file'),
        ((*WITNESS, '--source', 'lucidrains'), 'use one of vit_pytorch'),
    ],
)
def test_mistakes_of_the_user(compare, args, says):
    code, _, err = compare(*args)
    assert code == 2 and says in err and err.startswith('error: ')


def test_weights_of_another_model(compare):
    code, _, err = compare(*WITNESS, '--torch-arg', 'depth=2', size=VIT | {'depth': 1})
    assert code == 2 and 'unexpected: transformer.layers.1' in err


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_narrow_checkpoints(compare, dtype):
    torch.save({name: tensor.to(dtype) for name, tensor in torch.load('vit.pth').items()}, 'narrow.pth')
    code, out, _ = compare(*WITNESS, checkpoint='narrow.pth')
    assert code == 0 and 'EQUAL: 24 layers' in out


def test_what_is_no_number_is_not_equal(compare):
    state = torch.load('vit.pth')
    torch.save({name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}, 'all.pth')
    state['cls_token'].view(-1)[3] = torch.nan
    torch.save(state, 'one.pth')
    state['cls_token'].view(-1)[3] = torch.inf
    torch.save(state, 'infinite.pth')
    np.save('images.npy', np.full((1, 16, 16, 3), np.nan))
    for args, says in (
        (('all.pth',), 'NaN in cls_token, pos_embedding, .* and 29 more'),
        (('one.pth',), 'NaN in cls_token$'),
        (('infinite.pth',), 'nothing can be compared: 6 of the 6 numbers'),
        (('vit.pth', '--images', 'images.npy'), 'infinite or NaN'),
    ):
        code, out, err = compare(*WITNESS, *args[1:], checkpoint=args[0])
        assert code == 2 and 'EQUAL' not in out and re.search(says, err) and err.count('\n') == 1


def test_distances():
    array = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    as_in_torch = np.moveaxis(array, -1, 1)
    assert difference([array], [as_in_torch], 1e-9, strict=True) == Difference()
    assert difference([array.reshape(2, 12, 5)], [as_in_torch], 1e-9) == Difference()
    flipped = difference([array], [array[:, ::-1]], 1e-9)
    assert flipped.reordered and flipped.within(1e-9)
    assert not difference([array], [array[:, ::-1]], 1e-9, strict=True).within(1e-9)
    assert not difference([array], [array + np.nan], 1e-9).within(1e-9)
    assert difference([array + np.nan], [array + np.nan], 1e-9).within(1e-9)
    assert not difference([array], [array[:1]], 1e-9).comparable
    assert not difference([array], [], 1e-9, strict=True).within(1e-9)
    assert difference([2 * array], [array], 1e-9).relative == pytest.approx(1)


def test_calls_are_written_down_as_they_happen():
    """Also of a module that is called twice, and of one that writes into its input."""
    linear = torch.nn.Linear(2, 2)
    model = torch.nn.Sequential(linear, torch.nn.ReLU(inplace=True), linear)
    calls = torch_side.record(model, np.ones((1, 2), np.float32))
    assert [call.name for call in calls] == ['0', '1', '0', '']
    assert all(call.start < call.end for call in calls)
    with torch.no_grad():
        np.testing.assert_allclose(calls[0].outputs[0], linear(torch.ones(1, 2)), rtol=1e-6)


@pytest.mark.exhaustive
def test_the_example(tmp_path):
    """Every command of its README prints what the README says; figures at rounding's size may differ."""
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    blocks = re.findall(r'```console\n(.*?)```', (EXAMPLE / 'README.md').read_text(), re.DOTALL)
    commands = re.findall(r'^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)', ''.join(blocks), re.MULTILINE)
    assert len(commands) == 3
    env = {**os.environ, 'PYTHONPATH': str(EXAMPLE.parents[1])}
    for (command, expected), code in zip(commands, (0, 0, 1), strict=True):
        words = shlex.split(command.replace('\\\n', ' '))
        assert words[0] == 'python'
        done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        lines = [line for line in expected.splitlines() if line != '...']
        printed = plain(done.stdout)
        for line in lines:
            assert plain(line) in printed, line


def plain(text: str) -> str:
    """Without figures at rounding's size, and without the widths of columns."""
    return re.sub(r' +', ' ', re.sub(r'\d\.\de-1\d', '#', text)).strip()


OWN = """
import torch
from vit_torch_ref.models.vit import ViT

class Halved(ViT):
    def forward(self, images):
        whole = self.pos_embedding.data
        self.pos_embedding.data = whole / 2
        try:
            return super().forward(images)
        finally:
            self.pos_embedding.data = whole

class InHalf(ViT):
    def forward(self, images):
        return super().forward(images.float().double() if images.dtype == torch.float64 else images)

class Two(ViT):
    def forward(self, images):
        return 2 * (super().forward(images),)

class Fails(ViT):
    def forward(self, images):
        return super().forward(images[:, :, :5])
"""


def test_between_the_layers(compare):
    """No layer is to blame: the place between two of them is named."""
    Path('own.py').write_text(OWN)
    code, out, _ = compare('--torch-class', 'own.py:Halved')
    assert code == 1
    assert 'the layers themselves agree' in out and 'there: between to_patch_embedding and transformer\n' in out


def test_rounding_to_float32_is_told_apart(compare):
    Path('own.py').write_text(OWN)
    code, out, _ = compare('--torch-class', 'own.py:InHalf')
    assert code == 1 and 'of the size of float32 rounding' in out
    assert compare('--torch-class', 'own.py:InHalf', '--tolerance', '1e-5')[0] == 0


def test_other_outputs_and_crashes(compare):
    Path('own.py').write_text(OWN)
    assert compare('--torch-class', 'own.py:Two')[0] == 1
    code, _, err = compare('--torch-class', 'own.py:Fails')
    assert code == 2 and 'the torch model does not run on images of shape (2, 3, 16, 16)' in err


def test_what_is_ignored_may_be_in_the_file_alone(compare):
    torch.save(torch.load('vit.pth') | {'aux.weight': torch.ones(2)}, 'more.pth')
    assert compare(*WITNESS, checkpoint='more.pth')[0] == 2
    Path('rows.toml').write_text('ignore = ["aux"]')
    assert compare(*WITNESS, '--rows', 'rows.toml', checkpoint='more.pth')[0] == 0
