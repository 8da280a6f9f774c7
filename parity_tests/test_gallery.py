"""Examples of docs/gallery.md: built at their full size; with `--all` every one, and run where it is small."""

import re

import jax
import jax.numpy as jnp
import pytest

from parity_tests.docs import ROOT

PAGE = (ROOT / 'docs' / 'gallery.md').read_text()
EXAMPLES = dict(re.findall(r'^## (.*?)\n.*?```python\n(.*?)```', PAGE, re.DOTALL | re.MULTILINE))
SHAPES = r'^(\w+)\b.*  # (\(.*\))$'
SMALL = 5_000_000


def run(example: str) -> tuple[dict, dict]:
    """The arrays with a shape behind them, and all parameters."""
    names: dict = {'jax': jax, 'jnp': jnp}
    exec(compile(example, 'gallery.md', 'exec'), names)
    return {name: names[name] for name, _ in re.findall(SHAPES, example, re.MULTILINE)}, names.get('variables', {})


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


# Every fourth always, which are other kinds of models.
SHOWN = [pytest.param(title, marks=() if i % 4 == 0 else (pytest.mark.exhaustive,)) for i, title in enumerate(EXAMPLES)]


@pytest.mark.parametrize('title', SHOWN)
def test_shapes_of_an_example(title: str):
    example = EXAMPLES[title]
    # inside of a trace nothing is computed
    results, _ = jax.eval_shape(lambda: run(example))
    expected = dict(re.findall(SHAPES, example, re.MULTILINE))
    assert expected
    for name, shape in expected.items():
        assert results[name].shape == eval(shape), name


@pytest.mark.exhaustive
@pytest.mark.parametrize('title', EXAMPLES)
def test_an_example_is_computed(title: str):
    _, variables = jax.eval_shape(lambda: run(EXAMPLES[title]))
    size = sum(leaf.size for leaf in jax.tree.leaves(variables))
    if not 0 < size <= SMALL:
        pytest.skip(f'it has {size:,} parameters')
    computed, _ = jax.jit(lambda: run(EXAMPLES[title]))()
    assert all(jnp.isfinite(array).all() for array in computed.values())


def test_gallery_names_existing_models_only():
    assert len(EXAMPLES) == PAGE.count('```python') - 1 == PAGE.count('\n## ')
