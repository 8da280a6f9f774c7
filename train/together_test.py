"""What the processes decide together: here one process that takes itself for one of two; real ones in
`train/distributed_test.py`."""

import jax
import pytest

from train import together
from train.config import Mesh
from train.errors import UserError
from train.sharding import make_mesh
from train.together import Agreement, check_same


def test_of_several_processes_a_wish_is_known_a_step_later(monkeypatch):
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    agreement = Agreement(make_mesh(Mesh(fsdp=2, tensor=2)))
    assert [agreement(wish) for wish in (False, True, False, False)] == [False, False, True, False]


def test_alone_it_is_granted_at_once():
    agreement = Agreement(make_mesh(Mesh()))
    assert [agreement(wish) for wish in (False, True)] == [False, True]


def test_numbers_that_differ_are_refused(monkeypatch):
    check_same('train data of digits', 20, 'images')
    monkeypatch.setattr(together, 'of_first', lambda value: 1437)
    check_same('train data of digits', 1437, 'images')
    with pytest.raises(UserError, match='train data of digits: 20 images here, 1,437 for process 0'):
        check_same('train data of digits', 20, 'images')


def test_a_run_asks_how_many_images_the_others_have(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(together, 'of_first', lambda value: value - (value == 360))
    assert tiny('--out', str(tmp_path / 'run')) == 2
    said = 'error: val data of digits: 360 images here, 359 for process 0: every host needs a copy of the same\n'
    assert capsys.readouterr().err == said
    assert not (tmp_path / 'run').exists()
