"""Position tables: every model states the grids of its own, and they are moved as PyTorch resizes images."""

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from torch.nn.functional import interpolate

from parity_tests.bridge import example_inputs
from parity_tests.case import REPRESENTATIVES, Case, all_cases, first_cases
from vit_flax.blocks.position_tables import PositionTable, position_tables

# Arguments from which the size of a table follows.
SIZES = ('image_size', 'img_size', 'seq_len', 'frames', 'sequence_length', 'input_shape', 'time_seq_len')
# The same of windows, from which kernels may follow too.
WINDOWS = ('window_size', 'local_window_size')
# Tables of a kind of their own, which a first case does not have.
FURTHER = ('nest-paper_positions', 'cct-class_token', 'looped_vit-volume_grey', 'looped_vit-one_axis_pooled_tokens')


CASES = {case.id: case for case in first_cases()} | {case.id: case for case in all_cases() if case.id in FURTHER}


def shapes(model, *inputs):
    variables = jax.eval_shape(lambda *inputs: model.init(jax.random.key(0), *inputs), *inputs)
    return {path: leaf.shape for path, leaf in flatten_dict(variables['params'], sep='/').items()}


def by_torch(places: np.ndarray, new: tuple[int, ...], offsets: bool) -> np.ndarray:
    """The middle axes of `[lead *grid width]` resized one after the other."""
    how = {'align_corners': True} if offsets else {'align_corners': False, 'antialias': True}
    for axis, length in enumerate(new, start=1):
        last = np.moveaxis(places, axis, -1)
        rows = torch.from_numpy(last.reshape(1, 1, -1, last.shape[-1]))
        moved = interpolate(rows, (rows.shape[2], length), mode='bicubic', **how).numpy()
        places = np.moveaxis(moved.reshape(*last.shape[:-1], length), -1, axis)
    return places


def other_sizes(model):
    """Names of the model's sizes, and the model with each doubled."""
    for name in (*SIZES, *WINDOWS):
        value = getattr(model, name, None)
        if value is not None and not (isinstance(value, tuple) and None in value):
            yield name, model.clone(**{name: 2 * value if isinstance(value, int) else tuple(2 * n for n in value)})


@pytest.mark.parametrize(
    'case_id',
    [
        pytest.param(name, marks=() if case.stem in REPRESENTATIVES or name in FURTHER else (pytest.mark.exhaustive,))
        for name, case in CASES.items()
    ],
)
def test_what_has_another_shape_at_another_size_is_a_table(case_id: str):
    case = CASES[case_id]
    model, inputs = case.flax_model(), example_inputs(case)
    before, tables = shapes(model, *inputs), position_tables(model, *inputs)
    for path, table in tables.items():
        assert np.prod(before[path]) % table.rows == 0, path
    sizes = 0
    for name, other in other_sizes(model):
        try:
            after, moved_to = shapes(other, *given(other)), position_tables(other)
        except ValueError:  # twice the window does not divide the map
            assert name in WINDOWS
            continue
        sizes += 1
        changed = {path for path in before.keys() & after.keys() if before[path] != after[path]}
        assert changed <= tables.keys() or name in WINDOWS
        for path in changed & tables.keys():
            old, new = tables[path], moved_to[path]
            array = np.random.default_rng(0).normal(size=before[path])
            moved = np.asarray(old.move(array, new))
            assert moved.shape == after[path]
            ends = [old.prefix, old.rows - old.suffix]
            lead = array.size // old.rows // (array.shape[-1] if old.channels else 1)
            parts = np.split(array.reshape(lead, old.rows, -1), ends, axis=1)
            places = by_torch(parts[1].reshape(lead, *old.grid, parts[1].shape[-1]), new.grid, old.offsets)
            want = np.concatenate([parts[0], places.reshape(lead, -1, places.shape[-1]), parts[2]], axis=1)
            np.testing.assert_allclose(moved.ravel(), want.ravel(), rtol=0, atol=1e-9, err_msg=path)
    assert sizes or not tables


def given(model):
    example = model.example_input()
    return example if isinstance(example, tuple) else (example,)


def case_of(name: str) -> Case:
    return next(case for case in all_cases() if case.id == name)


@pytest.mark.parametrize(
    'name, path, table',
    [
        ('vit-cls', 'pos_embedding', PositionTable((6, 4), 1)),
        ('vit_with_patch_merger-half_way', 'pos_embedding', PositionTable((6, 4), 0, 1)),
        ('vit_3d-cls', 'pos_embedding', PositionTable((3, 4, 5), 1)),
        ('na_vit-one_size', 'pos_embed_width', PositionTable((9,))),
        ('levit-rectangular_grey', 'stage_0/block_0/attention/pos_bias', PositionTable((3, 5), offsets=True)),
        ('nest-rectangular', 'hierarchy_0/pos_emb', PositionTable((2, 6), channels=0)),
    ],
)
def test_grids_that_no_count_of_rows_tells(name: str, path: str, table: PositionTable):
    assert position_tables(case_of(name).flax_model())[path] == table


def test_no_way_stays_no_way():
    """Distances 0 to 3 become distances 0 to 6, of which every second is an old one."""
    old, new = PositionTable((4,), offsets=True), PositionTable((7,), offsets=True)
    table = np.random.default_rng(0).normal(size=(4, 2))
    np.testing.assert_allclose(old.move(table, new)[::2], table, atol=1e-12)


def test_layers_move_alike():
    old, new = PositionTable((2, 3), 1), PositionTable((4, 3), 1)
    tables = np.random.default_rng(0).normal(size=(5, 7, 2))
    together = old.move(tables, new)
    assert together.shape == (5, 13, 2)
    for one, moved in zip(tables, together, strict=True):
        np.testing.assert_allclose(old.move(one, new), moved, rtol=0, atol=1e-12)


@pytest.mark.parametrize('new', [PositionTable((3, 3), 1), PositionTable((9,)), PositionTable((3, 3), offsets=True)])
def test_tables_of_another_kind_are_refused(new: PositionTable):
    with pytest.raises(ValueError, match='cannot be moved'):
        PositionTable((2, 2)).move(np.zeros((4, 2)), new)
    with pytest.raises(ValueError, match=r'shape \(5, 2\)'):
        PositionTable((2, 2)).move(np.zeros((5, 2)), PositionTable((3, 3)))
