"""A run that begins with what another one has learned."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from train.cli import parse
from train.config import Loader, Model, check
from train.conftest import TINY, arrays
from train.data.augment import Augment
from train.data.stream import train_batches
from train.errors import UserError
from train.init import begin, inherit
from train.log import read_rows
from train.loop import run
from train.recipes.digits import CONFIG
from train.run import open_run
from train.setup import set_up
from train.sources.arrays import from_arrays
from vit_flax import resize_position_embedding
from vit_flax.weights.files import write_arrays

# Larger images, more classes, frozen blocks, and nothing random but the augmentation.
OTHERWISE = [
    '--augment.image-size=24', '--model.num-classes=12', '--model.dropout=0', '--optim.ema=0', '--steps=2',
    '--save-every=1', '--log-every=1',
    '--optim.groups', 'transformer/.*', 'frozen', '.*/kernel', 'decay', '.*', 'plain',
]  # fmt: skip


def flat(tree):
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep='/').items()}


def config_of(*args):
    return parse('digits', [*TINY, *args])[0]


def test_fine_tuning_at_another_size_with_other_classes(finished, tiny, tmp_path, capsys):
    source = tmp_path / 'source'
    shutil.copytree(finished, source)
    command = ['--init', str(source), *OTHERWISE, '--out', str(tmp_path / 'run')]
    assert tiny(*command) == 0
    out = capsys.readouterr().out
    assert f'of {source} (vit, best checkpoint, step {open_run(str(source), "best").step})' in out
    assert 'resized: pos_embedding, from 2x2 to 3x3 places' in out and 'new: mlp_head/bias, mlp_head/kernel\n' in out

    # The first loss, by hand.
    old = flat(open_run(str(source), 'best').variables['params'])
    config = config_of(*command)
    setup = set_up(config)
    params = flat(setup.initial().params)
    heads = {name for name in params if name.startswith('mlp_head/')}
    for name in params.keys() - heads - {'pos_embedding'}:
        params[name] = old[name]
    params['pos_embedding'] = np.asarray(
        resize_position_embedding(old['pos_embedding'], (2, 2), (3, 3), prefix_tokens=1, antialias=True)
    )
    how = {'seed': config.seed, 'batch_size': config.batch_size, 'steps': 1, 'loader': Loader(threads=0)}
    (batch,) = train_batches(config.data.records('train'), config.augment, **how)
    logits = np.asarray(
        setup.model.apply({'params': unflatten_dict(params, sep='/')}, batch['image'].astype(np.float32) / 255)
    )
    targets = 0.9 * np.eye(12)[batch['label']] + 0.1 / 12
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    first = read_rows(tmp_path / 'run' / 'metrics.jsonl')[0]
    assert first['step'] == 1
    np.testing.assert_allclose(first['train/loss'], -(targets * logs).sum(-1).mean(), rtol=1e-5)

    # What is frozen keeps every bit, what is not moves.
    after = flat(open_run(str(tmp_path / 'run'), 'last').variables['params'])
    for name, leaf in after.items():
        if name.startswith('transformer/'):
            assert leaf.tobytes() == old[name].tobytes(), name
    assert (after['mlp_head/kernel'] != params['mlp_head/kernel']).any()
    assert (after['pos_embedding'] != params['pos_embedding']).any()

    # The same command continues, and does not ask for the old run any more.
    whole = arrays(tmp_path / 'run' / 'checkpoints' / 'last' / '2')
    shutil.rmtree(source)
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / 'last' / '2')
    (tmp_path / 'run' / 'summary.json').unlink()
    assert tiny(*command) == 0
    out = capsys.readouterr().out
    assert 'continuing after step 1\n' in out and 'begins with' not in out
    again = arrays(tmp_path / 'run' / 'checkpoints' / 'last' / '2')
    assert all(again[name].tobytes() == leaf.tobytes() for name, leaf in whole.items())


@pytest.mark.parametrize('ending', ['.npz', '.safetensors'])
def test_a_file_of_weights_serves_as_well(finished, ending, tmp_path):
    old, file = open_run(str(finished), 'best'), tmp_path / f'weights{ending}'
    write_arrays(file, flat(old.variables))
    ours, theirs = (
        inherit(config, set_up(config))
        for config in (
            config_of('--init', str(file), '--init-image-size', str(old.facts.size[0]), *OTHERWISE),
            config_of('--init', str(finished), *OTHERWISE),
        )
    )
    assert ours.arrays.keys() == theirs.arrays.keys() and len(ours.arrays) > 20
    for name, array in ours.arrays.items():
        np.testing.assert_array_equal(array, theirs.arrays[name])
    # A file may lack the head.
    write_arrays(file, {n: a for n, a in flat(old.variables).items() if '/mlp_head/' not in n}, force=True)
    config = config_of('--init', str(file))
    assert inherit(config, set_up(config)).lines[-1] == '  new: mlp_head/bias, mlp_head/kernel'


def test_everything_that_does_not_fit_is_listed(finished, tiny, tmp_path, capsys):
    out = tmp_path / 'run'
    assert tiny('--init', str(finished), '--model.depth=3', '--model.mlp-dim=32', '--out', str(out)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f'error: init: {finished} (vit, best checkpoint, step ')
    assert ") does not fit model 'vit':\n" in err
    assert '  missing: params/transformer/block_2/attention/to_qkv/kernel (16, 48)\n' in err
    assert 'block_{0..1}/feedforward/expand/kernel is (16, 24) there and (16, 32) here' in err
    assert 'to_qkv/kernel is' not in err and not out.exists()


def test_unexpected_names_come_with_the_nearest(finished, tmp_path):
    names = flat(open_run(str(finished), 'best').variables)
    names['params/pos_embeding'] = names.pop('params/pos_embedding')
    write_arrays(tmp_path / 'weights.npz', names)
    config = config_of('--init', str(tmp_path / 'weights.npz'))
    with pytest.raises(UserError) as error:
        inherit(config, set_up(config))
    assert 'missing: params/pos_embedding (5, 16) (nearest there: params/pos_embeding)' in str(error.value)
    assert 'unexpected: params/pos_embeding (5, 16) (nearest here: params/pos_embedding)' in str(error.value)


def test_weights_of_nobody_knows_whom(tmp_path):
    write_arrays(tmp_path / 'torch.npz', {'transformer.layers.0.weight': np.zeros(3)})
    config = config_of('--init', str(tmp_path / 'torch.npz'))
    with pytest.raises(UserError, match=r"whose names are these, such as 'transformer\.layers\.0\.weight'"):
        inherit(config, set_up(config))


def test_blocks_are_stacked_and_taken_apart(finished, tmp_path):
    plain, scanned = (config_of('--init', str(place), *more) for place, more in
                      ((tmp_path / 'stacked.npz', ()), (finished, ['--model.scan'])))  # fmt: skip
    stacked = inherit(scanned, set_up(scanned)).arrays
    old = flat(open_run(str(finished), 'best').variables)
    kernel = 'params/transformer/block{}/attention/to_qkv/kernel'
    np.testing.assert_array_equal(stacked[kernel.format('')], [old[kernel.format(f'_{i}')] for i in range(2)])
    write_arrays(tmp_path / 'stacked.npz', {name: np.asarray(array) for name, array in stacked.items()})
    apart = inherit(plain, set_up(plain)).arrays
    assert apart.keys() == old.keys()
    for name, array in apart.items():
        np.testing.assert_array_equal(array, old[name])


def random_like(setup):
    """Arrays for every variable of a network."""
    draw = np.random.default_rng(0)
    variables = {'params': setup.state.params, **setup.state.collections}
    return {n: draw.normal(size=leaf.shape).astype(np.float32) for n, leaf in flatten_dict(variables, sep='/').items()}


def test_statistics_are_taken_and_constants_follow_the_size(tmp_path):
    levit = ['--model.name=levit', '--model.dim=8', '--model.depth=1', '--model.heads=2', '--model.stages=1',
             '--model.mlp-mult=2', '--augment.image-size=32', '--init', str(tmp_path / 'a.npz')]  # fmt: skip
    config, _ = parse('digits', levit)
    setup = set_up(config)
    write_arrays(tmp_path / 'a.npz', random_like(setup))
    found = inherit(config, setup).arrays
    assert any(name.startswith('batch_stats/') for name in found)
    for name, array in random_like(setup).items():
        np.testing.assert_array_equal(found[name], array)

    cct = ['--model.name=cct', '--model.embedding-dim=8', '--model.num-layers=1', '--model.num-heads=2']
    small, large = (
        parse('digits', [*cct, f'--augment.image-size={size}', '--init', str(tmp_path / 'b.npz')])[0]
        for size in (32, 64)
    )
    write_arrays(tmp_path / 'b.npz', random_like(set_up(small)))
    lines = inherit(large, set_up(large)).lines
    assert '  new: constants/classifier/positional_emb' in lines
    learned = [parse('digits', [*cct, '--model.positional-embedding=learnable', f'--augment.image-size={size}',
                                '--init', str(tmp_path / 'c.npz'), '--init-image-size=32'])[0]
               for size in (32, 64)]  # fmt: skip
    write_arrays(tmp_path / 'c.npz', random_like(set_up(learned[0])))
    assert any('resized: classifier/positional_emb, from' in line for line in
               inherit(learned[1], set_up(learned[1])).lines)  # fmt: skip


def test_state_lives_where_it_should(finished):
    config = config_of('--init', str(finished), '--mesh.fsdp=2', '--mesh.tensor=2', '--mesh.fsdp-min-size=100')
    setup = set_up(config)
    state = begin(config, setup, setup.initial(), inherit(config, setup))
    jax.tree.map(lambda leaf, wanted: leaf.sharding == wanted.sharding or pytest.fail(str(leaf)), state, setup.state)
    old = flat(open_run(str(finished), 'best').variables['params'])
    for tree in (state.params, state.ema):
        for name, leaf in flat(tree).items():
            np.testing.assert_array_equal(leaf, old[name])


def config_for(size, model, file, **changes):
    """A config of a network for images of one size, which begins with this file."""
    images = np.random.default_rng(0).integers(0, 255, (24, *size, 3), np.uint8)
    data = from_arrays(images, np.arange(24) % 3)
    return dataclasses.replace(
        CONFIG, data=data, augment=Augment(), batch_size=8, init=str(file), model=model, **changes
    )


VIT = dict(dim=8, depth=1, heads=2, dim_head=8, mlp_dim=8)


@pytest.mark.parametrize(
    'patch, sizes, grids',
    [
        ((4, 16), ((32, 32), (64, 64)), ((8, 2), (16, 4))),  # rectangular patches
        ((8, 8), ((16, 64), (32, 32)), ((2, 8), (4, 4))),  # as many patches, elsewhere
        ((8, 8), ((32, 128), (32, 32)), ((4, 16), (4, 4))),
    ],
)
def test_positions_move_between_the_true_grids(tmp_path, patch, sizes, grids):
    file, model = tmp_path / 'weights.npz', Model('vit', {**VIT, 'patch_size': patch})
    old = random_like(set_up(config_for(sizes[0], model, file)))
    write_arrays(file, old)
    config = config_for(sizes[1], model, file, init_image_size=sizes[0])
    found = inherit(config, set_up(config))
    words = [f'{rows}x{columns}' for rows, columns in grids]
    assert f'  resized: pos_embedding, from {words[0]} to {words[1]} places' in found.lines
    want = resize_position_embedding(old['params/pos_embedding'], *grids, prefix_tokens=1, antialias=True)
    np.testing.assert_allclose(found.arrays['params/pos_embedding'], want, rtol=0, atol=1e-6)
    unknown = config_for(sizes[1], model, file)
    if np.prod(grids[0]) != np.prod(grids[1]):
        with pytest.raises(UserError, match='--init-image-size the height and width'):
            inherit(unknown, set_up(unknown))
    else:  # a file does not tell its grid, and as many rows fit
        assert 'resized' not in ' '.join(inherit(unknown, set_up(unknown)).lines)


def test_a_run_knows_the_grid_of_its_images(tmp_path):
    """As many patches as the new images have, in another order of rows and columns."""
    model = Model('vit', {**VIT, 'patch_size': 8})
    run(config_for((16, 32), model, '', out=str(tmp_path / 'a'), steps=1, plots=False))
    config = config_for((32, 16), model, tmp_path / 'a')
    found = inherit(config, set_up(config))
    assert '  resized: pos_embedding, from 2x4 to 4x2 places' in found.lines
    old = flat(open_run(str(tmp_path / 'a'), 'best').variables)['params/pos_embedding']
    want = resize_position_embedding(old, (2, 4), (4, 2), prefix_tokens=1, antialias=True)
    np.testing.assert_allclose(found.arrays['params/pos_embedding'], want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    'model, says',
    [
        (
            Model('levit', dict(dim=8, depth=1, heads=2, stages=1, mlp_mult=2)),
            'resized: stage_0/block_0/attention/pos_bias, from 2x4 to 4x4 offsets',
        ),
        (
            Model('nest', dict(patch_size=4, dim=8, heads=2, mlp_mult=1, num_hierarchies=2, block_repeats=1)),
            'resized: hierarchy_0/pos_emb, from 4x8 to 8x8 places',
        ),
        (
            Model('looped_vit', dict(patch_size=8, dim=8, loop_depth=1, heads=2, mlp_dim=8)),
            'resized: positions/pos_embedding, from 4x8 to 8x8 places',
        ),
    ],
)
def test_other_tables_move_too(tmp_path, model, says):
    file = tmp_path / 'weights.npz'
    write_arrays(file, random_like(set_up(config_for((32, 64), model, file))))
    config = config_for((64, 64), model, file, init_image_size=(32, 64))
    lines = inherit(config, set_up(config)).lines
    assert any(says in line for line in lines), lines


def test_the_size_of_a_file_goes_with_a_file(finished):
    for args, says in (
        (('--init', str(finished), '--init-image-size', '16'), 'knows its own'),
        (('--init-image-size', '16'), 'beside --init'),
        (('--init', str(finished), '--init-image-size', '0', '16'), 'each at least 1'),
        (('--init', str(finished), '--init-image-size', '1', '2', '3'), 'height and width'),
    ):
        with pytest.raises(UserError, match=says):
            begin_with(config_of(*args))


def begin_with(config):
    check(config)
    inherit(config, set_up(config))
