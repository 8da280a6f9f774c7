"""A run's folder, opened by somebody else than the run."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from train.checkpoints import Checkpoints
from train.cli import main, parse
from train.conftest import TINY, arrays
from train.errors import UserError
from train.facts import Facts
from train.folder import open_folder
from train.optim import paths
from train.run import data_of, open_run, rows_of
from train.setup import set_up
from train.sources.arrays import from_arrays
from train.sources.pictures import Pictures


def copied(run, folder, *parts):
    for part in parts:
        (shutil.copytree if (run / part).is_dir() else shutil.copy)(run / part, folder / part)
    return str(folder)


@pytest.mark.parametrize('checkpoint', ['best', 'last'])
def test_it_has_what_the_run_evaluates(finished, checkpoint):
    run = open_run(str(finished), checkpoint)
    step = max(int(path.name) for path in (finished / 'checkpoints' / checkpoint).iterdir())
    stored = arrays(finished / 'checkpoints' / checkpoint / str(step))
    leaves = jax.tree.leaves_with_path(run.variables['params'])
    assert run.step == step and len(leaves) > 20
    for path, leaf in leaves:
        average = stored[f"['ema']{jax.tree_util.keystr(path)}"]
        assert leaf.sharding.is_fully_replicated
        np.testing.assert_array_equal(leaf, average)
    assert run.facts == Facts(tuple('0123456789'), (16, 16, 1), (0.0,), (1.0,))


def test_a_run_of_fsdp_is_split_as_it_was_trained_and_has_its_statistics(tmp_path):
    levit = ['--model.name=levit', '--model.dim=8', '--model.depth=1', '--model.heads=2', '--model.stages=1',
             '--model.mlp-mult=2', '--augment.image-size=32', '--mesh.fsdp=4', '--mesh.fsdp-min-size=32',
             '--out', str(tmp_path / 'run')]  # fmt: skip
    config, _ = parse('digits', levit)
    setup, folder = set_up(config), open_folder(config)
    checkpoints, state = Checkpoints(folder / 'checkpoints'), setup.initial()
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    state = state.replace(collections=jax.tree.map(lambda x: x + 3, state.collections))
    checkpoints.save(state, {'step': 0, 'seconds': 0, 'val': {}})
    checkpoints.close()
    variables = open_run(str(folder), 'last').variables
    for leaf, stored in zip(jax.tree.leaves(variables['params']), jax.tree.leaves(state.params), strict=True):
        assert leaf.sharding.is_equivalent_to(stored.sharding, leaf.ndim)
        np.testing.assert_array_equal(leaf, stored)
    assert set(variables) > {'params'} and 'batch_stats' in variables
    for name, leaf in zip(paths(variables), jax.tree.leaves(variables), strict=True):
        if name.startswith('batch_stats/'):
            np.testing.assert_array_equal(leaf, 4 if name.endswith('/var') else 3)


def test_what_is_no_run_is_one_clear_message(finished, tmp_path):
    with pytest.raises(UserError, match='nowhere is no folder'):
        open_run(str(tmp_path / 'nowhere'), 'best')
    with pytest.raises(UserError, match=r'has no config.json; there are runs in it: run'):
        open_run(str(finished.parent), 'best')
    with pytest.raises(UserError, match=r'there is no checkpoint in .*best yet$'):
        open_run(copied(finished, tmp_path, 'config.json', 'data.json'), 'best')
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(UserError, match=r'config.json cannot be read'):
        open_run(str(tmp_path), 'best')


def test_a_damaged_checkpoint_is_named_and_the_other_offered(finished, tmp_path):
    folder = copied(finished, tmp_path, 'config.json', 'data.json', 'checkpoints')
    for file in (tmp_path / 'checkpoints' / 'best').rglob('*'):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r'checkpoints/best/\d+ is damaged .*--checkpoint last takes the other'):
        open_run(folder, 'best')
    assert open_run(folder, 'last').step == 24


def test_a_checkpoint_of_another_model_is_refused(finished, tmp_path):
    folder = copied(finished, tmp_path, 'config.json', 'data.json', 'checkpoints')
    config = json.loads((tmp_path / 'config.json').read_text())
    config['model']['args']['mlp_dim'] = 40
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match=r'another model than config.json: ema/transformer.*\(24, 16\) there'):
        open_run(folder, 'best')


def test_data_without_a_path_stay_where_they_are(finished):
    run = open_run(str(finished), 'best')
    assert len(data_of(run, 'val')) == 360
    with pytest.raises(UserError, match=r"data.path='x': data of the kind 'digits' come without a path"):
        data_of(run, 'val', 'x')


def test_other_data_are_refused():
    facts = Facts(('cat', 'dog'), (8, 8, 3), (0.5,), (0.5,))
    facts.check_same(facts, 'here')
    for other, message in (
        (Facts(('cat', 'dog', 'eel'), (8, 8, 3), (), ()), 'the run has 2 classes, these data have 3'),
        (Facts(('cat', 'eel'), (8, 8, 3), (), ()), "class 1 of the run is 'dog', of these data 'eel'"),
        (Facts(('cat', 'dog'), (8, 8, 1), (), ()), 'images of 3 channels, these data of 1'),
    ):
        with pytest.raises(UserError, match=f'here: .*{message}'):
            facts.check_same(other, 'here')


def test_pictures_that_stand_in_for_others_do_not_count(finished, tmp_path):
    files = [str(tmp_path / f'{i}.png') for i in range(3)]
    for shade, file in enumerate(files):
        Image.new('L', (16, 16), 100 * shade).save(file)
    (tmp_path / '1.png').write_bytes(b'damaged')
    records = Pictures([(file, i) for i, file in enumerate(files)], 10, 'here', channels=1, corrupt='skip')
    run = open_run(str(finished), 'best')
    ((batch, means),) = rows_of(run, records, lambda _, batch: run.scale(batch)['image'].mean((1, 2, 3)), batch_size=3)
    np.testing.assert_array_equal(batch['label'], [0, 2])
    np.testing.assert_allclose(means, [0, 200 / 255], rtol=1e-5)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_a_run_on_arrays_is_used_without_them(dtype, tmp_path, capsys):
    draw = np.random.default_rng(0)
    data = from_arrays(draw.integers(0, 256, (20, 16, 16, 1)).astype(dtype), draw.integers(0, 10, 20))
    command = ['digits', *TINY, '--augment.image-size=0', '--out', str(tmp_path / 'run')]
    config = dataclasses.replace(parse('digits', command[1:])[0], data=data)
    setup, folder = set_up(config), open_folder(config)
    checkpoints = Checkpoints(folder / 'checkpoints')
    checkpoints.save(setup.initial(), {'step': 0, 'seconds': 0, 'val': {}})
    checkpoints.close()
    Image.fromarray(draw.integers(0, 256, (30, 30), np.uint8)).save(tmp_path / 'noise.png')
    predict = ['predict', str(folder), str(tmp_path / 'noise.png'), '--no-draw', '--checkpoint=last']
    if dtype == np.uint8:
        assert main(predict) == 0 and capsys.readouterr().out.count(' %') == 5
    else:
        assert main(predict) == 2
        assert 'images of float32, and in what scale an image does not tell' in capsys.readouterr().err
    assert main(['eval', str(folder), '--checkpoint=last']) == 2
    assert 'the data of this run were arrays in memory' in capsys.readouterr().err
