import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vit_flax.cli.main import main
from vit_flax.registry import model_info, stems
from vit_flax.weights.files import write_arrays


@pytest.fixture
def run(capsys):
    """Exit code, standard output, standard error."""

    def run(*args):
        try:
            code: object = main([*map(str, args)])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


ROOT = Path(__file__).parents[2]


def process(*args: str, code: str = '') -> subprocess.CompletedProcess:
    command = [sys.executable, '-c', code] if code else [sys.executable, '-m', 'vit_flax', *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, 'COLUMNS': '120'})


def test_models(run):
    code, out, _ = run('models')
    header, *lines = out.splitlines()
    assert code == 0 and header.split() == ['name', 'class', 'arXiv', 'paper']
    assert [line.split()[0] for line in lines] == [*stems()]
    code, out, _ = run('models', 'vi?', '--parameters')
    assert code == 0 and re.search(r'vit +ViT +86,543,080 +2010.11929 +An Image is Worth', out)
    assert run('models', 'vti')[0] == 2


def test_help_needs_no_jax():
    code = 'import sys; from vit_flax.cli.main import parser; parser(); sys.exit("jax" in sys.modules)'
    assert process(code=code).returncode == 0
    done = process('compare', '--help')
    assert done.returncode == 0
    assert '"blocks.{i}.attn" = "transformer.layers.{i}.0"' in done.stdout


def test_listing_needs_no_torch():
    code = 'import sys; from vit_flax.cli.main import main; main(["models"]); sys.exit("torch" in sys.modules)'
    assert process(code=code).returncode == 0


def test_describe(run, monkeypatch):
    monkeypatch.setenv('COLUMNS', '120')
    code, out, _ = run('describe', 'vit_pytorch_small_patch16_224')
    assert code == 0
    for line in (
        r'^vit_pytorch_small_patch16_224: ViT of vit_flax\.models\.vit$',
        r'arXiv:2010\.11929',
        r'^  dim +int +384 +width of a token\.$',
        r'^  pool +str +.cls. +.cls. classifies the class token',
        r'^  emb_dropout +float +0\.0 +rate on the embedded tokens\.$',
        r'image \[b h w c\]: \[1 224 224 3\]',
        r'^  vit_pytorch_base_patch16_384 .*image_size=384',
        r'^  - Without a class token the state dict still holds one, of no rows\.$',
    ):
        assert re.search(line, out, re.MULTILINE), line
    code, out, _ = run('describe', 'vit_tiny_patch16_224.augreg_in21k')
    assert code == 0 and 'size: 9,740,115 parameters' in out and 'num_classes=21843' in out
    assert re.search(r'^  vit_tiny_patch16_224\.augreg_in21k +mean 0\.5, .*license apache-2\.0$', out, re.MULTILINE)
    code, out, _ = run('describe', 'vit_base_patch16_224')
    assert code == 0 and 'size: 86,567,656 parameters' in out and 'vit_base_patch16_224.mae' in out
    code, _, err = run('describe', 'vti')
    assert code == 2 and err == "error: no model is called 'vti': did you mean 'vit'?\n"


def test_settings_of_a_part_are_told():
    from vit_flax.cli.describe import sizes

    assert sizes({'vit': {'dim': 2, 'image_size': (4, 8)}, 'depth': 3}) == 'vit={dim=2 image_size=(4,8)} depth=3'


@pytest.mark.parametrize('stem', stems())
def test_every_model_is_described(stem):
    """All but the trace, which takes seconds and is the gallery's to test."""
    from vit_flax.cli.arguments import options
    from vit_flax.cli.describe import arguments_table

    known = options(model_info(stem))
    assert len(arguments_table(known, {}).splitlines()) >= len(known)


@pytest.fixture
def few_models(monkeypatch):
    monkeypatch.setattr('vit_flax.registry.stems', lambda: ('cvt', 'simple_vit', 'vit', 'xcit'))


@pytest.mark.usefixtures('few_models')
def test_inspect(run, tmp_path):
    size = dict(image_size=16, patch_size=8, num_classes=3, dim=8, depth=3, heads=2, mlp_dim=12, dim_head=4)
    witness = importlib.import_module('vit_torch_ref.models.vit')
    torch.save(witness.ViT(**size).state_dict(), tmp_path / 'vit.pth')
    code, out, _ = run('inspect', tmp_path / 'vit.pth')
    assert code == 0
    assert re.search(r'vit\.pth: torch, \d+ arrays of [\d,]+ numbers: float32$', out, re.MULTILINE)
    assert re.search(
        r'^  transformer\.layers\.\{0\.\.2\}\.0\.to_qkv\.weight +float32 +\[24 8\] +x 3$', out, re.MULTILINE
    )
    assert re.search(r'^models whose names fit: vit$', out, re.MULTILINE)

    assert run('convert', tmp_path / 'vit.pth', tmp_path / 'vit', '--model', 'vit', *arguments(size))[0] == 0
    code, out, _ = run('inspect', tmp_path / 'vit')
    assert code == 0 and 'orbax' in out
    assert re.search(r'^models whose names fit: vit$', out, re.MULTILINE)


def arguments(size):
    return [part for key, value in size.items() for part in ('--arg', f'{key}={value}')]


@pytest.mark.usefixtures('few_models')
def test_inspect_without_a_fit(run, tmp_path):
    write_arrays(tmp_path / 'a.safetensors', {'conv1.weight': np.zeros((2, 2)), 'bn.bias': np.zeros(2, np.float32)})
    code, out, _ = run('inspect', tmp_path / 'a.safetensors')
    assert code == 0 and 'safetensors, 2 arrays of 6 numbers: 1 float32, 1 float64' in out
    assert 'no model has these names' in out
    torch.save({'state_dict': {'a.weight': torch.ones(2)}, 'epoch': 3}, tmp_path / 'b.pth')
    code, out, _ = run('inspect', tmp_path / 'b.pth')
    assert code == 0 and 'epoch: 3 (no array)' in out and '--key state_dict' in out


def test_errors_are_one_line_without_a_traceback(tmp_path):
    (tmp_path / 'a.pth').write_bytes(b'nonsense')
    done = process('inspect', str(tmp_path / 'a.pth'))
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
    assert process('nonsense').returncode == 2
    done = process('inspect', 'a', 'b\x1b[2J')
    assert done.returncode == 2 and r'b\x1b[2J' in done.stderr and '\x1b' not in done.stderr
    assert process('compare').returncode == 2


@pytest.mark.usefixtures('few_models')
def test_names_move_no_cursor(run, tmp_path):
    """What a file says is escaped, and what it says at length is cut."""
    names = 'a\x1b[2J', 'b\nc', 'd\u202ee', 'f\ud800', 'g' * 900
    torch.save({'state.w': dict.fromkeys(names, torch.ones(1)), 'h\rl': 'i\x1b'}, tmp_path / 'a.pth')
    code, out, err = run('inspect', tmp_path / 'a.pth')
    assert code == 0 and not err
    for shown in (r'a\x1b[2J', r'b\nc', r'd\u202ee', r'f\ud800', 'g...  float32', r'h\rl: "i\u001b" (no array)'):
        assert shown in out
    torch.save(dict.fromkeys(names, torch.ones(1)), tmp_path / 'b.pth')
    size = dict(image_size=16, patch_size=8, num_classes=3, dim=8, depth=1, heads=2, mlp_dim=12)
    code, _, err = run('convert', tmp_path / 'b.pth', tmp_path / 'b.npz', '--model', 'vit', *arguments(size))
    assert code == 2 and r'unexpected: a\x1b[2J' in err and r'unexpected: b\nc' in err
    assert all(line.isprintable() for text in (out, err) for line in text.splitlines())


@pytest.mark.usefixtures('few_models')
def test_many_odd_names(run, tmp_path):
    names = [f'{index}.{"1a" * 400}' for index in range(500)] + ['1' * 900 + str(index) for index in range(500)]
    write_arrays(tmp_path / 'a.safetensors', {name: np.zeros(1) for name in names})
    code, out, _ = run('inspect', tmp_path / 'a.safetensors')
    assert code == 0 and 'no model has these names' in out


def test_a_terminal_of_few_characters_and_a_name_that_is_no_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b'\xff.npz')
    write_arrays(os.fsdecode(path), {'é': np.zeros(1)})
    command = [sys.executable.encode(), b'-m', b'vit_flax', b'inspect', path, b'--no-models']
    env = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0 and r'\udcff.npz: npz, 1 arrays' in done.stdout and r'\xe9 ' in done.stdout
