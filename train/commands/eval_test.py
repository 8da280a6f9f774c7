"""`eval` says what training said, and where it goes wrong."""

import json

import numpy as np
import pytest

from train.cli import main
from train.log import read_rows
from train.run import open_run


@pytest.fixture(scope='module')
def logits(finished):
    """Of the held-out digits by the best checkpoint, without any of the machinery: `[360 10]`, and the labels."""
    run = open_run(str(finished), 'best')
    records = [run.config.augment.evaluate(record) for record in run.config.data.records('val')]
    images = np.stack([record['image'] for record in records]).astype(np.float32) / 255
    return np.asarray(run.model.apply(run.variables, images)), np.array([record['label'] for record in records])


@pytest.mark.parametrize('checkpoint, batch', [('best', '0'), ('last', '25')])
def test_equal_to_what_training_logged(finished, checkpoint, batch, tmp_path, capsys):
    file = tmp_path / 'numbers.json'
    assert main(['eval', str(finished), '--checkpoint', checkpoint, '--batch-size', batch, '--json', str(file)]) == 0
    numbers = json.loads(file.read_text())
    (row,) = (row for row in read_rows(finished / 'metrics.jsonl') if row['step'] == numbers['step'])
    assert numbers['step'] == open_run(str(finished), checkpoint).step and numbers['images'] == 360
    np.testing.assert_allclose(numbers['loss'], row['val/loss'], rtol=1e-5)
    assert numbers['top_1'] == pytest.approx(row['val/accuracy'], abs=1e-6)
    out = capsys.readouterr().out
    assert f'{100 * row["val/accuracy"]:.2f} % ({round(360 * row["val/accuracy"])} of 360)' in out
    assert f'loss   {row["val/loss"]:.4f}' in out


def test_classes_confusions_and_top_five(finished, logits, tmp_path, capsys):
    file = tmp_path / 'numbers.json'
    assert main(['eval', str(finished), '--json', str(file)]) == 0
    numbers, (scores, labels) = json.loads(file.read_text()), logits
    said = scores.argmax(-1)
    fifth = np.sort(scores)[:, -5]
    assert numbers['top_5'] == pytest.approx((scores[np.arange(360), labels] >= fifth).mean())
    for digit, found in numbers['classes'].items():
        mine = labels == int(digit)
        assert found == {'images': mine.sum(), 'right': (said[mine] == int(digit)).sum()}
    times = [confusion['times'] for confusion in numbers['confusions']]
    assert times == sorted(times, reverse=True) and sum(times) == (said != labels).sum()
    worst = numbers['confusions'][0]
    assert worst['times'] == ((labels == int(worst['is'])) & (said == int(worst['taken_for']))).sum()
    assert f'{worst["is"]}    {worst["taken_for"]} ' in capsys.readouterr().out


def test_the_training_split(finished, capsys):
    assert main(['eval', str(finished), '--split=train']) == 0
    assert '1,437 training images' in capsys.readouterr().out


@pytest.mark.parametrize(
    'args, message',
    [
        (['--data.path', 'x'], "data.path='x'"),
        (['--batch-size=-1'], 'batch_size=-1'),
        (['--json', '/'], '--json / cannot be written'),
    ],
)
def test_mistakes_are_one_line(finished, args, message, capsys):
    assert main(['eval', str(finished), *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and message in err and err.count('\n') == 1
