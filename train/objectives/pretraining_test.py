"""Objectives without labels, and distillation: whole tiny runs of each recipe, and what comes out of them."""

import dataclasses
import json
import shutil
from functools import partial
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from train import catalogue, objectives, recipes
from train.cli import main, parse
from train.config import check, from_json, to_json
from train.conftest import arrays
from train.data.stream import place, train_batches
from train.errors import UserError
from train.folder import open_folder
from train.init import begin, inherit
from train.log import read_rows
from train.model import build
from train.objectives.dino import Dino
from train.objectives.distill import Distill
from train.objectives.lejepa import LeJepa
from train.objectives.mae import Mae
from train.objectives.mpp import Mpp
from train.objectives.objective import Objective
from train.optim import paths
from train.run import open_run
from train.scale import Scale
from train.setup import depths_of, set_up
from train.sharding import abstract
from train.state import initial_state
from train.step import make_train_step
from vit_flax import create_model
from vit_flax.objectives.encoder import encoder_variables
from vit_flax.objectives.views import MultiCrop

SHORT = [
    '--data.name=digits', '--augment.image-size=16', '--steps=2', '--batch-size=16', '--eval-every=2',
    '--save-every=1', '--log-every=1', '--no-plots',
]  # fmt: skip
VIT = ['--model.dim=16', '--model.depth=1', '--model.heads=2', '--model.dim-head=8', '--model.mlp-dim=16']
SMALL = ['--objective.local-views=2', '--objective.local-size=8', '--objective.projection-hidden=16']
TEACHER = [*SMALL, '--objective.prototypes=24', '--objective.projection-bottleneck=8']
# A network with a feature map and without BatchNorm, which sees each part of a batch alone.
NEST = [
    '--model.name=nest', '--model.patch-size=4', '--model.dim=8', '--model.heads=1', '--model.num-hierarchies=2',
    '--model.block-repeats=1',
]  # fmt: skip
RECIPES = {
    'mae': [*VIT, '--objective.decoder-dim=16', '--objective.decoder-depth=1'],
    'simmim': VIT,
    'mpp': VIT,
    'mp3': VIT,
    'dino': [*VIT, *TEACHER],
    'esvit': [*TEACHER, *NEST, '--objective.local-views=1'],
    'lejepa': [*VIT, *SMALL, '--objective.projection=8', '--objective.slices=8'],
}
# What each shows beside its loss.
MONITORS = {
    'dino': {'teacher_entropy', 'center_norm', 'projection_std'},
    'esvit': {'teacher_view_entropy', 'teacher_region_entropy', 'view_center_norm', 'projection_std'},
    'lejepa': {'projection_std'},
}


def command(recipe, *args):
    return [recipe, *SHORT, *RECIPES[recipe], *args]


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
    """Gives the folder of a finished run of a recipe, made once."""
    folders = {}

    def pretrained(recipe):
        if recipe not in folders:
            folders[recipe] = tmp_path_factory.mktemp(recipe) / 'run'
            assert main(command(recipe, '--out', str(folders[recipe]))) == 0
        return folders[recipe]

    return pretrained


def flat(tree):
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep='/').items()}


# What repeats for every objective what one of a kind shows: labels, masked patches, views and a teacher, a loss of the
# whole batch.
some_always = pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=() if name in ('classification', 'mae', 'dino', 'lejepa') else pytest.mark.exhaustive)
        for name in objectives.names()
    ],
)


@pytest.mark.parametrize(
    'recipe',
    [pytest.param(name, marks=() if name == 'mae' else (pytest.mark.exhaustive,)) for name in RECIPES],
)
def test_every_recipe_learns_without_labels_and_is_probed(recipe, pretrained):
    folder = pretrained(recipe)
    rows = read_rows(folder / 'metrics.jsonl')
    assert [row['step'] for row in rows] == [1, 2] and rows[0]['train/grad_norm'] > 0
    seen = {'loss', 'knn_accuracy', 'linear_accuracy', 'feature_std', *MONITORS.get(recipe, ())}
    assert {name.removeprefix('val/') for name in rows[1] if name.startswith('val/')} >= seen
    assert {f'train/{name}' for name in MONITORS.get(recipe, ())} <= rows[0].keys()
    assert all(np.isfinite(value) for row in rows for value in row.values())
    # Even a network that has learned next to nothing tells digits apart better than chance.
    assert rows[1]['val/knn_accuracy'] > 0.15
    best = json.loads((folder / 'summary.json').read_text())['best']
    assert best['val/knn_accuracy'] == rows[1]['val/knn_accuracy']


@pytest.mark.exhaustive
def test_esvit_of_the_network_of_its_recipe(tmp_path):
    """With the statistics of convolutions; those of one pixel compile faster."""
    stage = ('emb-dim=8', 'proj-kernel=1', 'depth=1', 'heads=1')
    network = [f'--model.s{i}-{setting}' for i in (1, 2, 3) for setting in stage]
    args = [*SHORT, *TEACHER, *network, '--objective.local-views=1', '--out', str(tmp_path / 'run')]
    assert main(['esvit', *args]) == 0
    rows = read_rows(tmp_path / 'run' / 'metrics.jsonl')
    assert [row['step'] for row in rows] == [1, 2]
    assert all(np.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize('recipe', ['mae', pytest.param('dino', marks=pytest.mark.exhaustive)])
def test_what_was_learned_begins_a_run_with_labels(recipe, pretrained):
    run = open_run(str(pretrained(recipe)), 'best')
    learned = flat(run.network['params'])
    if recipe == 'mae':
        expected = encoder_variables(run.variables)['params']
    else:
        expected = run.variables['teacher_params']['teacher']['net']
    assert all((learned[name] == leaf).all() for name, leaf in flat(expected).items())

    model = run.config.model
    size = f'--model.patch-size={model.args["patch_size"]}'
    args = ['--init', str(run.folder), '--model.name', model.name, size, *VIT]
    if recipe == 'mae':
        args.append('--model.pool=mean')
    config = parse('digits', [*SHORT, *args])[0]
    setup = set_up(config)
    fresh = setup.initial()
    drawn = flat(fresh.params)
    begun = flat(begin(config, setup, fresh, inherit(config, setup)).params)
    heads = {name for name in begun if name.startswith(('mlp_head', 'linear_head'))}
    assert heads and begun.keys() == learned.keys()
    for name, leaf in begun.items():
        np.testing.assert_array_equal(leaf, drawn[name] if name in heads else learned[name], err_msg=name)


def test_a_run_without_labels_begins_with_what_another_learned(pretrained):
    """Student and teacher begin with the same network."""
    model = parse('mae', command('mae')[1:])[0].model
    config = dataclasses.replace(parse('dino', command('dino')[1:])[0], model=model, init=str(pretrained('mae')))
    setup = set_up(config)
    state = begin(config, setup, setup.initial(), inherit(config, setup))
    learned = flat(open_run(config.init, 'best').network['params'])
    for network in (state.params['encoder'], state.collections['teacher_params']['teacher']['net']):
        for name, leaf in flat(network).items():
            if not name.startswith('mlp_head'):
                np.testing.assert_array_equal(leaf, learned[name], err_msg=name)


@pytest.mark.exhaustive
def test_continued_it_ends_with_the_same_bits(pretrained, tmp_path):
    whole, broken = pretrained('dino'), tmp_path / 'broken'
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / 'checkpoints' / 'last' / '2')
    shutil.rmtree(broken / 'checkpoints' / 'best')
    (broken / 'summary.json').unlink()
    assert main(command('dino', '--out', str(broken))) == 0
    for kind in ('last', 'best'):
        ours, theirs = (arrays(run / 'checkpoints' / kind / '2') for run in (broken, whole))
        assert ours.keys() == theirs.keys() and any("['centers']" in name for name in ours)
        for name, array in ours.items():
            assert array.tobytes() == theirs[name].tobytes(), name


def test_a_batch_in_parts_is_the_whole_batch():
    """Masks and views are drawn before it is divided."""
    config = parse('dino', command('dino')[1:])[0]
    records = config.data.records('train')
    ends = []
    for parts in (1, 2):
        setup = set_up(dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=parts)))
        loader = config.loader
        (batch,) = train_batches(records, config.augment, seed=0, batch_size=16, steps=1, loader=loader)
        _, numbers = setup.train_step(setup.initial(), place(batch, setup.mesh, 16))
        ends.append([float(numbers[name]) for name in ('loss', 'grad_norm')])
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-4)


def test_a_teacher_lives_where_its_student_does():
    mesh = ['--mesh.fsdp=2', '--mesh.tensor=2', '--mesh.fsdp-min-size=64']
    state = set_up(parse('dino', command('dino', *mesh)[1:])[0]).state
    student, teacher = state.params['encoder'], state.collections['teacher_params']['teacher']['net']
    shardings = jax.tree.map(lambda leaf: leaf.sharding.spec, student)
    assert shardings == jax.tree.map(lambda leaf: leaf.sharding.spec, teacher)
    assert {'fsdp', 'tensor'} <= {axis for spec in jax.tree.leaves(shardings) for axis in spec}


def test_layer_wise_learning_rates_know_where_the_encoder_is():
    """What the objective adds lies behind it, as its head does."""
    config = parse('mae', command('mae')[1:])[0]
    setup, image = set_up(config), jnp.zeros((1, 16, 16, 1))
    found = depths_of(config.objective, setup.model, setup.state.params, {'image': image})
    blocks = 'encoder/to_patch_embedding', 'encoder/transformer/block_0', 'encoder/mlp_head', 'decoder/block_0'
    assert [{int(found[path]) for path in found if path.startswith(block)} for block in blocks] == [{0}, {1}, {2}, {2}]


def test_the_commands_say_what_there_is(pretrained, tmp_path, capsys):
    run, file = str(pretrained('mae')), tmp_path / 'eval.json'
    assert main(['eval', run, '--json', str(file)]) == 0
    row = read_rows(pretrained('mae') / 'metrics.jsonl')[-1]
    numbers = json.loads(file.read_text())
    assert numbers['loss'] == pytest.approx(row['val/loss'], rel=1e-4)
    for name in ('knn_accuracy', 'linear_accuracy'):
        assert numbers[name] == pytest.approx(row[f'val/{name}'], abs=0.01)
    assert main(['features', run, '--out', str(tmp_path / 'features.npz'), '--limit=20']) == 0
    with np.load(tmp_path / 'features.npz') as stored:
        assert stored['features'].shape == (20, 16)
    capsys.readouterr()
    assert main(['predict', run, 'a.png']) == 2
    err = capsys.readouterr().err
    assert 'has learned no classes: train a recipe of classes with --init' in err and err.count('\n') == 1


def test_pictures_of_what_is_hidden(pretrained, tmp_path):
    assert main(['plots', str(pretrained('mae')), '--out', str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.iterdir()} >= {'curves', 'reconstructions', 'attention'}
    objective, scale = Mae(decoder_dim=8, decoder_depth=1, decoder_heads=2, decoder_dim_head=4), Scale((0.2,), (0.5,))
    model = create_model('vit', image_size=8, patch_size=2, num_classes=3, dim=8, depth=1, heads=2, mlp_dim=8)
    images = scale.leaf(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8))
    complete = objective.pictures(model, scale)
    assert complete is not None

    @jax.jit
    def draw(images):
        module = objective.module(model, scale)
        return complete(objective.init(module, jax.random.key(0), {'image': images}), images, jax.random.key(1))

    masked, predicted = map(np.asarray, draw(images))
    hidden = np.isnan(masked)
    assert hidden.mean() == 0.75
    np.testing.assert_allclose(predicted[~hidden], images[~hidden], rtol=1e-5)
    assert (np.abs(predicted - images)[hidden] > 1e-3).mean() > 0.9


def test_schedules_of_the_teacher():
    dino = Dino(teacher_temp=0.07, teacher_temp_start=0.03, teacher_temp_warmup=0.5, momentum=0.9)
    np.testing.assert_allclose([dino.temperature(t) for t in (0, 0.25, 0.5, 1)], [0.03, 0.05, 0.07, 0.07], rtol=1e-6)
    np.testing.assert_allclose([dino.decay(jnp.float32(t)) for t in (0, 0.5, 1)], [0.9, 0.95, 1], rtol=1e-6)


def test_views_are_random_crops_in_the_scale_of_the_data():
    dino, scale = Dino(local_views=3, local_size=8), Scale((0.5,), (0.25,))
    model = create_model('simple_vit', image_size=16, patch_size=4, num_classes=3, dim=16, depth=1, heads=2, mlp_dim=8)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    batch = {'image': jnp.asarray(images), 'label': jnp.zeros(4, int)}
    draw = jax.jit(lambda key: dino.prepare(model, batch, key, scale, True)['draws'])
    first, again, other = (draw(jax.random.key(i)) for i in (0, 0, 1))
    assert first['global_views'].shape == (4, 2, 16, 16, 3) and first['local_views'].shape == (4, 3, 8, 8, 3)
    for name, views in first.items():
        assert views.min() >= -2 and views.max() <= 2 and views.std() > 0.2
        np.testing.assert_array_equal(views, again[name])
        assert (np.abs(views - other[name]) > 1e-3).mean() > 0.5
    with pytest.raises(UserError, match='needs uint8 images, these are float32'):
        dino.prepare(model, {**batch, 'image': images.astype(np.float32)}, jax.random.key(0), scale, True)


@pytest.mark.parametrize('objective', [Dino(local_size=32), LeJepa(local_size=32)])
def test_small_crops_fit_networks_that_end_in_a_feature_map(objective):
    model, batch = create_model('cvt', num_classes=3, s3_depth=1), {'image': jnp.zeros((1, 64, 64, 3))}
    variables = jax.eval_shape(lambda: objective.init(objective.module(model, None), jax.random.key(0), batch))
    shapes = {path[-2:]: leaf.shape for path, leaf in flatten_dict(variables['params']).items()}
    assert shapes['hidden_0', 'kernel'] == (384, 2048)


def test_colours_are_told_in_the_scale_of_the_data():
    """A white patch is of the last class, whatever the mean and deviation of the data."""
    objective, scale = Mpp(), Scale((0.4,), (0.2,))
    model = create_model('vit', image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, heads=2, mlp_dim=8)
    white = scale.leaf(np.full((1, 8, 8, 3), 255, np.uint8))

    @jax.jit
    def label(images):
        module = objective.module(model, scale)
        variables = objective.init(module, jax.random.key(0), {'image': images})
        return module.apply(variables, images, method='labels')

    assert (label(white) == 511).all()


def test_every_option_is_an_argument_of_the_loss_or_of_its_views():
    """With its type and the paper's value; what is written by hand belongs to the trainer."""
    kinds: list[Any] = [objectives.find(name) for name in objectives.names()]
    made = [kind for kind in kinds if hasattr(kind, 'loss_class')]
    assert len(made) == len(kinds) - 1, 'classification has no loss of vit_flax'
    for kind in made:
        hints, defaults = get_type_hints(kind), {field.name: field.default for field in dataclasses.fields(kind)}
        parts = [(kind.loss_class, kind.loss_class.PAPER, kind.arguments)]
        parts += [(MultiCrop, vars(kind.paper_views), kind.view_arguments)] if kind.paper_views else []
        for part, paper, arguments in parts:
            assert arguments
            for option, argument in arguments.items():
                assert hints[option] == get_type_hints(part)[argument]
                if (kind, argument) != (Distill, 'temperature'):
                    assert defaults[option] == paper.get(argument, getattr(part, argument, None))


def test_at_most_two_classes_between_an_objective_and_the_contract():
    for name in objectives.names():
        assert sum(issubclass(kind, Objective) for kind in objectives.find(name).__mro__) <= 3


def test_a_config_of_an_earlier_version_is_read(tmp_path):
    """Without the options that there were not, and with 0 and '' for what is None now; its run can be continued."""
    args = [*SHORT, '--objective.local-size=0', '--out', str(tmp_path / 'run')]
    config, other = (parse('dino', [*args, *more])[0] for more in ([], ['--objective.no-average-places']))
    old = to_json(config)
    written = old['objective']
    for key in ('student_sees_global', 'average_places', 'local_scale_min'):
        del written[key]
    written |= {'hidden_layer': '', 'local_size': 0}
    assert from_json(old) == config
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'config.json').write_text(json.dumps(old))
    assert open_folder(config) == tmp_path / 'run'
    with pytest.raises(UserError, match=r'holds another run:\n  objective.average_places: True there, False now\n'):
        open_folder(other)
    written['shares'] = 3
    with pytest.raises(UserError, match=r"of another version of this trainer: .*'shares'"):
        from_json(old)


def test_collapse_is_told_once():
    assert 'collapsed' in Dino().warning({'val/feature_std': 1e-4})
    assert Dino().warning({'val/feature_std': 0.2}) == Dino().warning({'train/loss': 1.0}) == ''


DISTILL = [*SHORT, *VIT, '--augment.pad-crop=1', '--log-every=1']


def test_a_student_learns_from_a_teacher(finished, tmp_path, capsys):
    out = tmp_path / 'run'
    command = ['distill', *DISTILL, '--objective.teacher', str(finished), '--out', str(out)]
    assert main(command) == 0
    rows = read_rows(out / 'metrics.jsonl')
    assert {'train/agreement', 'train/accuracy', 'train/loss'} <= rows[0].keys() and 'val/accuracy' in rows[1]
    # Once trained, the student needs the teacher no more.
    config = json.loads((out / 'config.json').read_text())
    config['objective']['teacher'] = str(tmp_path / 'gone')
    (out / 'config.json').write_text(json.dumps(config))
    capsys.readouterr()
    assert main(['eval', str(out)]) == 0
    assert f'{100 * rows[1]["val/accuracy"]:.2f} %' in capsys.readouterr().out
    run = open_run(str(out), 'best')
    assert 'cls_token' in run.network['params'] and 'distillation_token' in run.variables['params']


def test_the_teacher_is_spread_over_the_mesh_and_no_constant_of_the_step(finished):
    mesh = ['--mesh.fsdp=2', '--mesh.fsdp-min-size=64']
    setup = set_up(parse('distill', [*DISTILL, *mesh, '--objective.teacher', str(finished)])[0])
    kernel = setup.given['teacher']['params']['mlp_head']['kernel']
    assert kernel.size == 2 * kernel.addressable_shards[0].data.size
    np.testing.assert_array_equal(kernel, open_run(str(finished), 'best').variables['params']['mlp_head']['kernel'])
    rows: dict[str, np.ndarray] = {'image': np.zeros((16, 16, 16, 1), np.uint8), 'label': np.zeros(16, np.int32)}
    step = setup.train_step.trace(setup.state, abstract({**place(rows, setup.mesh, 16), **setup.given}))
    assert sum(constant.size for constant in step.jaxpr.consts) < 1000


@pytest.mark.parametrize(
    'recipe, args, message',
    [
        ('distill', [], 'objective.teacher is missing: name a run'),
        ('distill', ['--objective.teacher', 'nowhere'], 'objective.teacher: nowhere is no folder'),
        ('distill', ['--objective.alpha', '2'], 'objective.alpha=2.0 must be between 0 and 1'),
        ('mae', ['--objective.masking-ratio', '1'], 'masking_ratio=1.0 must be between 0 and 1'),
        ('mae', ['--model.name', 'cct'], 'cannot be trained on its patches'),
        ('mae', ['--objective.masking', 'tube'], "masking='tube' masks the same positions at every step of a video"),
        ('mae', ['--objective.probe-images', '-1'], 'objective.probe_images=-1 must be at least 0'),
        ('simmim', ['--objective.mask-patch-size', '6'], 'mask_patch_size=6 must be made of whole patches'),
        ('dino', ['--objective.teacher-temp', '0'], 'objective.teacher_temp=0.0 must be above 0'),
        ('dino', ['--objective.local-views', '0'], 'objective.local_views=0 must be at least 1'),
        ('esvit', ['--model.name', 'vit', '--model.patch-size', '4', *VIT, '--model.depth', '1'], 'not a feature map'),
        ('dino', ['--objective.hidden-layer', 'transformer/block_7'], "did you mean 'transformer/block_0'?"),
        (
            'dino',
            ['--objective.local-scale', '0.01'],
            'local_scale=0.01 must be at least objective.local_scale_min=0.05',
        ),
        ('lejepa', ['--objective.use-ema', 'True'], 'predict_mean=True has no target encoder'),
        ('lejepa', ['--objective.sigreg', '1'], 'objective.sigreg=1.0 must lie between 0 and 1'),
    ],
    ids=lambda value: value if isinstance(value, str) and ' ' not in value else '',
)
def test_a_mistake_is_one_line(recipe, args, message, capsys, tmp_path):
    own = [arg for arg in RECIPES.get(recipe, VIT) if '--model.name' not in args or not arg.startswith('--model')]
    assert main([recipe, *SHORT, *own, '--out', str(tmp_path / 'run'), *args]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1 and not (tmp_path / 'run').exists()


# ---------------------------------------------------------------------- parts of a batch, and padding

# Of several recipes with one objective the smallest.
RECIPE_OF = {catalogue.name_of(recipes.find(name).CONFIG.objective): name for name in (*recipes.names(), 'digits')}


def small_recipe(name, finished):
    """The arguments of a command line that trains an objective in miniature."""
    recipe = RECIPE_OF[name]
    own = RECIPES.get(recipe, ['--model.patch-size=8', *VIT])
    if recipe == 'esvit':
        own = [*TEACHER, *NEST]
    if name in ('dino', 'esvit'):  # small crops as large as the others are one call with them, and compile faster
        own = [*own, '--objective.local-views=1', '--objective.local-size=0']
    if recipe == 'distill':
        own = [*own, f'--objective.teacher={finished}', '--objective.mixup=0.3']
    return recipe, [*SHORT, '--batch-size=6', *own]


def in_float64(config, train):
    """A network, a prepared batch of six rows and random variables; in the precision that is asked for."""
    objective, scale = config.objective, Scale((0.3,), (0.4,))
    model = build(config.model, (16, 16, 1), 10).clone(dtype=jnp.float64)
    draw = np.random.default_rng(0)
    batch: dict[str, Any] = {
        'image': draw.integers(0, 256, (6, 16, 16, 1), np.uint8),
        'label': np.arange(6, dtype=np.int32),
    }
    # Rows that differ, so that a part of them is told from all.
    batch['image'][:3] //= 4
    given = objective.given() if train else {}
    prepare = jax.jit(partial(objective.prepare, model, scale=scale, train=train))
    prepared = prepare({**batch, **given}, rng=jax.random.key(1))
    prepared = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, prepared)
    one = {'image': np.zeros((1, 16, 16, 1)), 'label': np.zeros(1, np.int32)}
    module = objective.module(model, scale)
    shapes = jax.eval_shape(lambda: objective.init(module, jax.random.key(0), one))
    variables = jax.tree.map(lambda x: draw.normal(size=x.shape) / 3, shapes)
    return model, module, prepared, variables


@some_always
def test_padding_is_no_part_of_an_evaluation(name, finished):
    """A last batch that is filled up has the metrics of its own rows, whatever it is filled up with."""
    recipe, args = small_recipe(name, finished)
    config = parse(recipe, args)[0]
    objective = config.objective
    with jax.enable_x64(True):
        _, module, prepared, variables = in_float64(config, train=False)

        def metrics(rows):
            loss, (found, _) = objective.loss(module, variables, rows, jax.random.key(0), False, 0.5)
            weight = rows['weight']
            return {name: (value * weight).sum() / weight.sum() for name, value in found.items()}, loss

        padded = {**prepared, 'weight': np.array([1.0, 1, 1, 1, 0, 0])}
        (got, _), (want, loss) = jax.jit(lambda padded, rows: (metrics(padded), metrics(rows)))(
            padded, jax.tree.map(lambda x: x[:4], padded)
        )
        assert got.keys() == want.keys() >= {'loss'}
        for metric, value in want.items():
            np.testing.assert_allclose(got[metric], value, rtol=1e-9, err_msg=metric)
        np.testing.assert_allclose(got['loss'], loss, rtol=1e-9)


@some_always
def test_parts_are_the_whole_batch_or_refused(name, finished, monkeypatch):
    """In float64: parameters, and every state that an objective keeps, such as a centre of the teacher's answers."""
    recipe, args = small_recipe(name, finished)
    config = parse(recipe, args)[0]
    if config.objective.whole:
        parted = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=3))
        with pytest.raises(UserError, match=rf'optim\.accumulate=3 must be 1 with the objective {name}: '):
            check(parted)
        return
    with jax.enable_x64(True):
        model, _, prepared, variables = in_float64(config, train=True)
        monkeypatch.setattr(type(config.objective), 'prepare', lambda *args, **kwargs: prepared)
        state = initial_state(variables, optax.sgd(0.1), ema=False)
        ends = []
        for count in (1, 3):
            optim = dataclasses.replace(config.optim, accumulate=count)
            parted = dataclasses.replace(config, optim=optim)
            step = make_train_step(config.objective, model, optax.sgd(0.1), Scale((0.3,), (0.4,)), parted)
            ends.append(jax.jit(step)(state, prepared))
        (whole, of_whole), (parts, of_parts) = ends
        for path, a, b in zip(paths(whole), jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12, err_msg=path)
        for number in ('loss', 'grad_norm'):
            np.testing.assert_allclose(of_parts[number], of_whole[number], rtol=1e-9, err_msg=number)
        before = dict(zip(paths(state), jax.tree.leaves(state), strict=True))
        moved = {path for path, leaf in zip(paths(parts), jax.tree.leaves(parts), strict=True)
                 if not np.array_equal(leaf, before[path])}  # fmt: skip
        assert any(path.startswith('params/') for path in moved)
        centres = {path for path in before if '/centers/' in path}
        assert centres <= moved and bool(centres) == (name in ('dino', 'esvit'))
