"""How the suite is divided: what always runs, what with `--all` alone, and what is kept between sessions."""

import os

import jax
import pytest

EXHAUSTIVE = 'exhaustive: repeats for every model what is a property of a block, or with more seeds; needs --all'


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--all', action='store_true', help='also what is marked exhaustive; -m exhaustive: that alone')


def pytest_configure(config: pytest.Config) -> None:
    """Also keeps compiled programs from one session to the next, here and in the processes that tests start.

    JAX finds a program by a hash of its whole text, of the compiler's version and of its flags: none can be stale.
    """
    config.addinivalue_line('markers', EXHAUSTIVE)
    # before anything is compiled: JAX asks once
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(config.cache.mkdir('compiled'))
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    jax.config.update('jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR'])
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption('all') and 'exhaustive' not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker('exhaustive')]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker('exhaustive')]
