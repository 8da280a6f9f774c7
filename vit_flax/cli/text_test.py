from vit_flax.cli.text import columns, fold, table


def names(*given: str) -> list[tuple[str, int]]:
    return [(entry.name, entry.count) for entry in fold(dict.fromkeys(given, 'same'))]


def test_layers_are_folded():
    layers = [f'layers.{i}.{j}.weight' for i in range(12) for j in (0, 1)]
    assert names(*layers, 'head.weight') == [('layers.{0..11}.{0..1}.weight', 24), ('head.weight', 1)]
    assert names('a.0.b', 'a.2.b', 'a.5.b') == [('a.{0,2,5}.b', 3)]
    assert names('block_0/k', 'block_1/k', 'block_0/q') == [('block_{0..1}/k', 2), ('block_0/q', 1)]


def test_other_values_are_not_folded():
    assert len(fold({'a.0': (2, 3), 'a.1': (2, 4)})) == 2
    assert fold({}) == []


def test_folded_counts_add_up():
    given = {f'x{i}.y{j}.z{k}': (i == j) for i in range(4) for j in range(3) for k in range(2)}
    assert sum(entry.count for entry in fold(given)) == len(given)


def test_tables_and_columns():
    assert table([['a', '1'], ['long', '10']], '<>') == 'a      1\nlong  10\n'
    assert table([]) == ''
    assert columns('one two three', 8) == ['one two', 'three']
