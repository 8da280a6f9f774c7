"""Folders of clips: which frames are taken, in every container, and every way in which they can be wrong."""

import dataclasses
import os
import re
import runpy
import struct
import sys
from pathlib import Path
from typing import Any

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train.cli import main
from train.config import Loader, Model
from train.conftest import ROOT
from train.data.augment import Augment
from train.data.stream import train_batches, val_batches
from train.errors import UserError
from train.facts import Facts
from train.log import read_rows
from train.model import build
from train.objectives.mixing import mix
from train.recipes.digits import CONFIG
from train.sources.clips import chosen, decode
from train.sources.video_folder import VideoFolder

CODECS = {'.mp4': 'libx264', '.mov': 'mpeg4', '.mkv': 'libx264', '.webm': 'libvpx-vp9', '.avi': 'mpeg4', '.gif': 'gif'}
INLINE = Loader(threads=0)


def shades(length: int, height=48, width=64) -> np.ndarray:
    """Frames `[t h w 3]` that are brighter from one to the next, and redder on the left."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames += (20 + 200 * np.arange(length) // length).astype(np.uint8)[:, None, None, None]
    frames[:, :, : width // 2, 0] += 30
    return frames


def write(path: Path, frames: np.ndarray, **options: str) -> Path:
    """A film of frames `[t h w 3]`, with a key frame every eight of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w', options=options) as container:
        stream: Any = container.add_stream(CODECS[path.suffix], rate=12, options={'g': '8'})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'rgb8' if path.suffix == '.gif' else 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    return path


def clip(path: Path, length=24, height=48) -> Path:
    """A film of `shades`."""
    return write(path, shades(length, height))


@pytest.fixture(scope='module')
def films(tmp_path_factory):
    """One of each container."""
    root = tmp_path_factory.mktemp('films')
    return {ending: clip(root / f'a: b{ending}') for ending in CODECS}


@pytest.fixture(scope='module')
def whole(films):
    """Every frame of them, as PyAV gives them without any seeking."""
    found = {}
    for ending, path in films.items():
        with av.open(f'file:{path}') as container:
            found[ending] = np.stack([
                frame.to_ndarray(format='rgb24', interpolation='AREA') for frame in container.decode(video=0)
            ])  # fmt: skip
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory, films):
    """Two classes of five clips of several sizes and containers to train on, one of which is damaged."""
    root = tmp_path_factory.mktemp('clips')
    for name, length in (('long', 24), ('short', 5)):
        for i, ending in enumerate(('.mp4', '.avi', '.mp4', '.gif', '.webm')):
            clip(root / 'train' / name / f'{i}{ending}', length, height=32 + 16 * (i % 2))
        clip(root / 'val' / name / '0.mp4', length)
        clip(root / 'val' / name / '1.mp4', length)
    damaged = root / 'train' / 'long' / '2.mp4'
    damaged.write_bytes(damaged.read_bytes()[:900])
    return VideoFolder(path=str(root), frames=4, stride=3, corrupt='skip')


@pytest.mark.parametrize('ending', CODECS)
def test_the_frames_are_those_that_were_chosen(films, whole, ending):
    path, frames = str(films[ending]), whole[ending]
    assert len(frames) == 24 and frames.shape[1:] == (48, 64, 3)
    assert np.abs(frames - shades(24).astype(float)).mean() < (25 if ending == '.gif' else 6)
    for stride in (0, 1, 2, 5):
        for seed in range(4):
            numbers = chosen(24, 4, stride, np.random.default_rng(seed))
            found = decode(path, 4, stride, np.random.default_rng(seed))
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, frames[numbers])
        np.testing.assert_array_equal(decode(path, 4, stride), frames[chosen(24, 4, stride)])


def test_which_frames_are_chosen():
    assert chosen(20, 4, 2).tolist() == [6, 8, 10, 12]
    assert chosen(20, 4, 0).tolist() == [2, 7, 12, 17]
    seen = np.array([chosen(20, 4, 2, np.random.default_rng(seed)) for seed in range(200)])
    assert (np.diff(seen) == 2).all() and set(seen[:, 0]) == set(range(14))
    seen = np.array([chosen(20, 4, 0, np.random.default_rng(seed)) for seed in range(200)])
    assert [set(part) for part in seen.T] == [set(range(first, first + 5)) for first in (0, 5, 10, 15)]


def test_of_too_short_a_clip_the_last_frame_is_repeated():
    for rng in (None, np.random.default_rng(0)):
        assert chosen(3, 5, 1, rng).tolist() == [0, 1, 2, 2, 2] and chosen(1, 3, 4, rng).tolist() == [0, 0, 0]
    assert chosen(2, 4, 0).tolist() == [0, 0, 1, 1] and chosen(7, 4, 2).tolist() == [0, 2, 4, 6]


def test_grey_small_and_upright(films, tmp_path):
    path = str(films['.mp4'])
    found = decode(path, 4, 2, channels=1, least=16)
    assert found.shape == (4, 16, 22, 1)
    colours = np.array(Image.fromarray(decode(path, 4, 2)[0]).convert('L'), float)
    assert abs(found[0].mean() - colours.mean()) < 3
    assert decode(path, 4, 2, least=100).shape == (4, 48, 64, 3)
    # A telephone held upright: the second display matrix is that of the track, here a quarter turn clockwise.
    matrix, turn = (struct.pack('>9i', *(value << 16 for value in row[:8]), 1 << 30) for row in (
        (1, 0, 0, 0, 1, 0, 0, 0), (0, 1, 0, -1, 0, 0, 0, 0)))  # fmt: skip
    head, track, rest = Path(path).read_bytes().split(matrix)
    turned = tmp_path / 'turned.mp4'
    turned.write_bytes(head + matrix + track + turn + rest)
    np.testing.assert_array_equal(decode(str(turned), 2, 2), np.rot90(decode(path, 2, 2), -1, (1, 2)))


def labels(records):
    return [int(record['label']) for record in records]


def test_records(folder):
    folder.check()
    records = folder.records('train')
    assert folder.classes == ('long', 'short') and folder.shape == (4, 0, 0, 3)
    assert labels(records) == [0] * 5 + [1] * 5 and labels(folder.records('val')) == [0, 0, 1, 1]
    assert [record['image'].shape for record in records][:2] == [(4, 32, 64, 3), (4, 48, 64, 3)]
    assert [int(record['skipped']) for record in records] == [0, 0, 3] + [0] * 7
    assert records.name(2).endswith('long/2.mp4') and records.why(2) and not records.why(1)
    np.testing.assert_array_equal(records[2]['image'], records[3]['image'])


def test_a_part_is_held_out(tmp_path, films):
    for i in range(6):
        (tmp_path / f'class {i % 2}').mkdir(exist_ok=True)
        (tmp_path / f'class {i % 2}' / f'{i}.MP4').write_bytes(films['.mp4'].read_bytes())
    source = VideoFolder(path=str(tmp_path), held_out=0.2)
    assert set(labels(source.records('val'))) == {0, 1}
    assert len(source.records('train')) + len(source.records('val')) == 6


AUGMENT = Augment(image_size=20, resized_crop=(0.3, 1.0), flip=0.5, randaugment=1, erase=0.3)


def batches(source, loader=INLINE, augment=AUGMENT, **how):
    how = {'seed': 3, 'batch_size': 4, 'steps': 6, **how}
    return list(train_batches(source.records('train'), augment, loader=loader, **how))


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize('loader', [Loader(threads=4), Loader(threads=1, workers=2)], ids=str)
def test_threads_and_processes_change_nothing(folder, loader):
    whole = batches(folder)
    assert whole[0]['image'].shape == (4, 4, 20, 20, 3) and whole[0]['image'].dtype == np.uint8
    assert_equal(batches(folder, loader), whole)


def test_a_later_start_and_fewer_rows_are_the_same_stream(folder):
    whole = batches(folder)
    assert_equal(batches(folder, start=4), whole[4:])
    assert_equal(batches(folder, rows=range(1, 3)), [{k: v[1:3] for k, v in batch.items()} for batch in whole])
    images = np.concatenate([batch['image'] for batch in batches(folder, seed=4)])
    assert not np.array_equal(images, np.concatenate([batch['image'] for batch in whole]))


def test_all_frames_are_changed_alike():
    """Of a video that stands still every frame stays the same."""
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    record = {'image': np.stack([frame] * 3), 'label': np.int32(0)}
    for augment in (AUGMENT, Augment(image_size=20, rotate=20, shift=0.2), Augment(pad_crop=4, flip=0.5)):
        seen = [augment.train(record, np.random.default_rng(seed))['image'] for seed in range(8)]
        for video in seen:
            assert (video == video[0]).all()
        assert len(np.unique(np.stack(seen), axis=0)) > 4
        alone = augment.train({'image': frame}, np.random.default_rng(5))['image']
        np.testing.assert_array_equal(seen[5][2], alone)
    middle = AUGMENT.evaluate(record)['image']
    np.testing.assert_array_equal(middle[1], AUGMENT.evaluate({'image': frame})['image'])


def test_the_place_in_time_is_drawn_too(folder):
    """Brightness tells which frames they are."""
    plain = Augment(image_size=20)
    means = np.concatenate([batch['image'][batch['label'] == 0].mean((2, 3, 4)) for batch in batches(
        folder, augment=plain, steps=10)])  # fmt: skip
    assert (np.diff(means) > 10).all() and len(np.unique(means[:, 0].round())) > 6
    held_out = [list(val_batches(folder.records('val'), plain, batch_size=4, loader=INLINE)) for _ in range(2)]
    assert_equal(*held_out)
    middle = shades(24)[chosen(24, 4, 3)].mean((1, 2, 3))
    np.testing.assert_allclose(held_out[0][0]['image'][0].mean((1, 2, 3)), middle, atol=6)


def test_videos_are_mixed_frame_by_frame_alike():
    images = jax.random.normal(jax.random.key(0), (4, 8, 9, 3))
    videos = jnp.stack([images, images + 1], axis=1)
    for mixup, cutmix in ((0.8, 0.0), (0.0, 1.0)):
        mixed, share = mix(images, jax.random.key(1), mixup, cutmix, 0.8)
        both, same = mix(videos, jax.random.key(1), mixup, cutmix, 0.8)
        np.testing.assert_array_equal(share, same)
        np.testing.assert_allclose(both[:, 0], mixed, atol=1e-6)
        np.testing.assert_allclose(both[:, 1], mixed + 1, atol=1e-6)


@pytest.mark.parametrize(
    'files, message',
    [
        ((), r'has no clips in folders of classes: give --data\.path a folder with train/CLASS/\*\.mp4'),
        (('a.mp4',), 'has no clips in folders of classes'),
        (('a/0.mp4', 'b/'), r'b has no clips \(\.mp4.*\): fill or remove the folder'),
        (('a/0.mp4', 'b/0.jpg'), 'b has no clips'),
        (('train/a/0.mp4', 'val/b/0.mp4'), 'val/b: there is no such class to train on'),
        (('a/0.mp4', 'b/0.mp4'), 'has one clip of each class, so that none can be held out'),
    ],
)
def test_folders_that_are_wrong(tmp_path, files, message):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).mkdir() if file.endswith('/') else (tmp_path / file).write_bytes(b'')
    with pytest.raises(UserError, match=message) as refused:
        VideoFolder(path=str(tmp_path)).records('train')
    assert '\n' not in str(refused.value)


def silent(path: Path) -> None:
    with av.open(str(path), 'w', format='mp4') as container:
        stream: Any = container.add_stream('aac', rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def in_front(path: Path) -> None:
    """The index first, then half of what it speaks of: what is left of a download."""
    write(path, np.random.default_rng(0).integers(0, 256, (24, 48, 64, 3), np.uint8), movflags='faststart')
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scrambled(path: Path) -> None:
    clip(path)
    data = path.read_bytes()
    at = data.index(b'mdat') + 4
    size = int.from_bytes(data[at - 8 : at - 4]) - 8
    path.write_bytes(data[:at] + bytes(size) + data[at + size :])


def playlist(path: Path) -> None:
    clip(path.parent / 'other.avi')
    path.write_text("ffconcat version 1.0\nfile 'other.avi'\n")


@pytest.mark.parametrize(
    'damage, reason',
    [
        (lambda path: path.write_bytes(b''), 'Invalid data'),
        (lambda path: path.write_text('<svg/>'), 'it is no MP4, QuickTime'),
        (lambda path: path.write_bytes(clip(path).read_bytes()[:-200]), 'Invalid data'),
        (in_front, r'it ends after \d+ of 24 frames'),
        (scrambled, 'Invalid data'),
        (silent, 'it has no video'),
        (playlist, 'it is no MP4'),
        (lambda path: clip(path).unlink(), 'No such file'),
    ],
    ids=['empty', 'no video', 'cut off', 'half of it', 'scrambled', 'silent', 'playlist', 'gone'],
)
def test_an_unreadable_clip_is_refused_with_its_path(tmp_path, films, damage, reason):
    for split in ('train', 'val'):
        for name in ('0.mp4', '1.mp4'):
            (tmp_path / split / 'a').mkdir(parents=True, exist_ok=True)
            (tmp_path / split / 'a' / name).write_bytes(films['.mp4'].read_bytes())
    source = VideoFolder(path=str(tmp_path), frames=4)
    records, skipping = (dataclasses.replace(source, corrupt=how).records('train') for how in ('refuse', 'skip'))
    damage(tmp_path / 'train' / 'a' / '0.mp4')
    with pytest.raises(UserError, match=rf'train/a/0\.mp4 cannot be read: .*({reason}).*such clips with') as refused:
        records[0]
    assert '\n' not in str(refused.value)
    assert int(skipping[0]['skipped']) == 1
    np.testing.assert_array_equal(skipping[0]['image'], records[1]['image'])


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(frames=0), r'data\.frames=0 must be at least 1'),
        (dict(stride=-1), r'data\.stride=-1 must be at least 0'),
        (dict(held_out=0.0), r'data\.held_out=0\.0'),
        (dict(channels=4), r'data\.channels=4'),
        (dict(corrupt='ignore'), r"data\.corrupt='ignore'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        VideoFolder(**options).check()


def test_without_the_decoder(monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(UserError, match=r"videos need PyAV: pip install 'vit-linen\[video\]'"):
        VideoFolder().check()


def example(name: str, *args: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, 'argv', [name, *args])
    runpy.run_path(str(ROOT / 'examples' / 'video_clip' / name), run_name='__main__')


@pytest.mark.exhaustive
def test_the_example_runs_four_models(monkeypatch, capsys):
    example('run.py', monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert 'pan.mp4: 16 of 50 frames, 320 x 240 pixels' in out
    assert re.findall(r'to (\(.*?\)) in', out) == ['(1, 10)', '(1, 10)', '(1, 16, 10)', '(1, 2, 10)']
    with pytest.raises(SystemExit, match=r'nowhere\.mp4 cannot be read as a video'):
        example('run.py', 'nowhere.mp4', monkeypatch=monkeypatch)


def test_the_example_cuts_clips(films, tmp_path, monkeypatch):
    long = clip(tmp_path / 'long film.mkv', 100)
    example('cut.py', str(tmp_path / 'cut'), str(long), str(films['.mp4']), monkeypatch=monkeypatch)
    source = VideoFolder(path=str(tmp_path / 'cut'), frames=16, stride=1)
    assert source.classes == ('a: b', 'long film')
    # One clip of the one, six of the other.
    assert labels(source.records('train')) == [0, 1, 1, 1, 1] and labels(source.records('val')) == [1, 1]
    brightness = np.concatenate([record['image'].mean((1, 2, 3)) for record in list(source.records('train'))[1:]])
    np.testing.assert_allclose(brightness, shades(100)[:64].mean((1, 2, 3)), atol=5)


TINY = [
    '--augment.image-size=16', '--data.frames=4', '--data.corrupt=skip', '--model.image-patch-size=8', '--model.dim=16',
    '--model.spatial-depth=1', '--model.temporal-depth=1', '--model.heads=2', '--model.dim-head=8',
    '--model.mlp-dim=16', '--steps=4', '--batch-size=8', '--eval-every=2', '--save-every=4', '--log-every=1',
]  # fmt: skip


@pytest.fixture(scope='module')
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('run') / 'run'
    assert main(['vivit_clips', *TINY, '--data.path', folder.path, '--out', str(out)]) == 0
    return out


def test_the_recipe_runs(finished):
    assert {'plots', 'summary.json', 'checkpoints'} <= {path.name for path in finished.iterdir()}
    assert (finished / 'plots' / 'predictions.png').exists()
    rows = read_rows(finished / 'metrics.jsonl')
    assert all(np.isfinite(row['loss']) for row in rows if 'loss' in row)
    assert main(['eval', str(finished)]) == 0
    assert main(['features', str(finished), '--out', str(finished / 'features.npz')]) == 0
    assert np.load(finished / 'features.npz')['features'].shape == (4, 16)


@pytest.mark.exhaustive
def test_tubes_of_videos_are_hidden_and_completed(folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr('train.plots.draw.reconstructions', lambda path, *pictures: drawn.append(pictures))
    sizes = ['--data.frames=4', '--model.frames=4', '--model.frame-patch-size=2', '--model.image-patch-size=4']
    command = ['mae', *TINY[:1], *TINY[2:3], *TINY[-5:], *sizes, '--data.name=video_folder', '--model.name=vit_3d']
    command += [f'--model.{size}' for size in ('dim=16', 'depth=1', 'heads=2', 'dim-head=8', 'mlp-dim=16')]
    command += ['--objective.masking=tube', '--objective.decoder-dim=12', '--objective.decoder-depth=1']
    assert main([*command, '--data.path', folder.path, '--out', str(tmp_path / 'run')]) == 0
    images, masked, predicted = drawn[0]
    assert images.shape == masked.shape == predicted.shape == (2, 16, 16, 3)
    # Three quarters of the places, at any time, and so of this frame's.
    hidden = np.isnan(masked)
    assert hidden.mean() == 0.75
    np.testing.assert_allclose(predicted[~hidden], images[~hidden], atol=1e-5)


@pytest.mark.parametrize(
    'args, message',
    [
        (['predict', 'RUN', 'a.jpg'], 'knows videos, no images'),
        (['vivit_clips', '--data.path=nowhere'], "data.path='nowhere' is not a folder: give --data.path a folder with"),
        (['vivit_clips', '--data.name=digits'], "model 'vivit' takes videos, such as of --data.name video_folder"),
        (['digits', '--data.name=video_folder', '--data.path=CLIPS'], 'expected input of layout [b h w c]'),
    ],
)
def test_mistakes_are_one_line(finished, folder, args, message, capsys):
    args = [{'RUN': str(finished)}.get(arg, arg.replace('CLIPS', folder.path)) for arg in args]
    assert main(args) == 2
    err = capsys.readouterr().err
    assert re.search(message.replace('[', r'\['), err) and err.count('\n') == 1


@pytest.mark.parametrize(
    'name, args',
    [
        ('vit_3d', dict(image_patch_size=8, frame_patch_size=2, dim=8, depth=1, heads=2, mlp_dim=8)),
        ('simple_vit_3d', dict(image_patch_size=8, frame_patch_size=2, dim=12, depth=1, heads=2, mlp_dim=8)),
        ('cct_3d', dict(embedding_dim=8, num_layers=1, num_heads=2, mlp_ratio=1.0, frame_kernel_size=3)),
    ],
)
def test_other_models_follow_the_data_too(name, args):
    model = build(Model(name, args), (4, 16, 24, 3), 5)
    videos = jax.ShapeDtypeStruct((2, 4, 16, 24, 3), np.float32)
    logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), videos)
    assert logits.shape == (2, 5) and model.example_input().shape == (1, 4, 16, 24, 3)


def test_a_run_of_other_length_is_other_data(finished, folder):
    config = dataclasses.replace(CONFIG, data=folder, augment=Augment(image_size=16))
    other = dataclasses.replace(config, data=dataclasses.replace(folder, frames=8))
    with pytest.raises(UserError, match='the run has videos of 4 frames, these data have videos of 8 frames'):
        Facts.read(finished).check_same(Facts.of(other), 'run')
    Facts.read(finished).check_same(Facts.of(config), 'run')


def test_what_would_be_waited_for_and_what_is_huge(films, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / 'pipe.mp4')
    (tmp_path / 'device.mp4').symlink_to('/dev/zero')
    for name in ('pipe.mp4', 'device.mp4'):
        with pytest.raises(OSError, match='it is no file'):
            decode(str(tmp_path / name), 4, 1)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 64 * 48 - 1)
    with pytest.raises(ValueError, match='it has 64x48 pixels, more than 3,071'):
        decode(str(clip(tmp_path / 'a.mp4')), 4, 1)
