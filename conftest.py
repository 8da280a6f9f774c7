"""Eight simulated devices and quick compilation for all tests; what always runs, what with `--all` alone."""

import ctypes
import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

# Here compiling takes the time, not running. Each of the first two halves it, the third saves a little. The last is
# patience: eight devices on a busy machine of two cores may wait for minutes.
FLAGS: tuple[str, ...] = (
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_parallel_codegen_split_count=1',
    '--xla_cpu_collective_call_terminate_timeout_seconds=600',
)
# This one halves it too; later versions end the process at a flag that they do not know.
if version('jaxlib').startswith('0.10.'):
    FLAGS += ('--xla_cpu_use_fusion_emitters=false',)
# Both are read when JAX starts its first program.
os.environ.setdefault('XLA_FLAGS', ' '.join(FLAGS))
jax.config.update('jax_num_cpu_devices', 8)

# The workers of a parallel run are new processes: they get their memory in large pages, which saves them a fifth of
# their time, and look less often for cycles among the millions of objects that tracing leaves, which saves a tenth.
os.environ.setdefault('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')
gc.set_threshold(20_000, 20, 20)

EXHAUSTIVE = 'exhaustive: repeats for every model what is a property of a block, or with more seeds; needs --all'


def pytest_addoption(parser: pytest.Parser) -> None:
    stems = 'the tests of these models alone: cait,xcit (-k vit would match many); none: those of no model'
    parser.addoption('--stem', help=stems)
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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests of one model follow each other, behind all that are of none, and share what is made for it."""
    if not config.getoption('all') and 'exhaustive' not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker('exhaustive')]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker('exhaustive')]
    chosen = config.getoption('stem')
    if chosen:
        items[:] = [item for item in items if (stem_of(item) or 'none') in chosen.split(',')]
    items.sort(key=lambda item: stem_of(item) or '')


# What JAX has traced and compiled stays until it is told otherwise: gigabytes, after some hundred tests. A process that
# has grown to this many bytes gives it back before the tests of another file or model.
LARGE = 3 * 2**29


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: the garbage collector need not look at it again and again."""
    gc.freeze()


def stem_of(item: pytest.Item) -> str | None:
    """Of the model or objective that a test is run for, if it is for one."""
    parameters = getattr(item, 'callspec', None)
    return (
        next((value.stem for value in parameters.params.values() if hasattr(value, 'stem')), None)
        if parameters
        else None
    )


def subject(item: pytest.Item) -> str:
    """What tests share things about."""
    return stem_of(item) or str(item.path)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if (nextitem is None or subject(item) != subject(nextitem)) and resident() > LARGE:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of memory that this process has now; 0 where the system does not tell."""
    if sys.platform != 'linux':
        return 0
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
