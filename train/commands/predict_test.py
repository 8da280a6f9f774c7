"""`predict` answers for every image that can be read, and names the others."""

import jax
import numpy as np
import pytest
from PIL import Image

from train.cli import main
from train.commands.predict import where
from train.run import open_run
from vit_flax import create_model
from vit_flax.wrappers.recorder import Recorder


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    """A real photograph, 640x427 in colour."""
    from sklearn.datasets import load_sample_image

    file = tmp_path_factory.mktemp('photo') / 'flower.jpg'
    Image.fromarray(load_sample_image('flower.jpg')).save(file)
    return file


def test_probabilities_are_those_of_the_network(finished, photo, tmp_path, capsys):
    run = open_run(str(finished), 'best')
    with Image.open(photo) as picture:
        grey = np.asarray(picture.convert('L'))[..., None]
    seen = run.config.augment.evaluate({'image': grey})['image'][None] / 255
    expected = jax.nn.softmax(np.asarray(run.model.apply(run.variables, np.float32(seen))))[0]
    assert main(['predict', str(finished), str(photo), '--out', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for number, digit in enumerate(np.argsort(-expected)[:5], 1):
        assert f' {number}  {digit}  {100 * expected[digit]:5.1f} %' in out
    drawn = Image.open(tmp_path / 'flower.png').convert('RGB')
    assert len(drawn.getcolors(drawn.width * drawn.height) or []) > 200


def test_those_that_cannot_be_read_are_named_and_the_others_answered(finished, photo, tmp_path, capsys):
    twin = tmp_path / 'twin' / 'flower.jpg'
    twin.parent.mkdir()
    Image.open(photo).rotate(90).save(twin)
    (tmp_path / 'text.jpg').write_text('no image')
    images = [str(path) for path in (tmp_path / 'none.png', photo, tmp_path / 'text.jpg', twin)]
    assert main(['predict', str(finished), *images, '--invert']) == 2
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f'error: {images[0]}: there is no such file',
        f'error: {images[2]} is no image of a kind that Pillow knows',
    ]
    assert out.count(' %') == 10 and f'{finished}/predictions: flower-2.png, flower.png' in out
    assert {path.name for path in (finished / 'predictions').iterdir()} == {'flower.png', 'flower-2.png'}


def test_no_pictures_no_answer(finished, capsys, tmp_path):
    assert main(['predict', str(finished)]) == 2
    assert 'name at least one IMAGE' in capsys.readouterr().err
    (tmp_path / 'file').touch()
    assert main(['predict', str(finished), 'a.png', '--out', str(tmp_path / 'file')]) == 2
    assert 'cannot be written' in capsys.readouterr().err


TINY = dict(num_classes=3, dim=16, heads=2, dim_head=8, mlp_dim=16, image_size=16, patch_size=4)


@pytest.mark.parametrize(
    'name, options, grid, names',
    [
        ('vit', dict(TINY, depth=2), (4, 4), ['attention, last block', 'attention rollout']),
        ('cait', dict(TINY, depth=2, cls_depth=1), (4, 4), ['attention, last block']),
        ('simple_vit', dict(TINY, depth=1), (4, 4), ['attention, last block', 'attention rollout']),
        (
            'cct',
            dict(img_size=16, embedding_dim=16, num_layers=1, num_heads=2, num_classes=3, positional_embedding='none'),
            (4, 4),
            ['attention, last block', 'attention rollout'],
        ),
        ('max_vit', dict(num_classes=3, dim=8, depth=(1,), dim_head=8, window_size=2, dim_conv_stem=8), None, []),
    ],
)  # fmt: skip
def test_where_a_model_looked(name, options, grid, names):
    model = create_model(name, **options)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, shapes = jax.eval_shape(Recorder(model).apply, variables, images)
    draw = np.random.default_rng(0)
    maps = jax.tree.map(lambda leaf: draw.dirichlet(np.ones(leaf.shape[-1]), leaf.shape[:-1]), shapes)
    found = where(maps, (16, 16), model)
    assert [title for title, _ in found] == names
    for _, weights in found:
        assert weights.shape == grid and weights.max() == 1
    assert where(None, (16, 16), model) == []
