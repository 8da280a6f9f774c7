"""Eight simulated devices, float64, quick compilation."""

import os

# Must be set before JAX starts: here compiling takes the time, not running. Each flag halves it.
QUICK_COMPILE = (
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_use_fusion_emitters=false',
)
os.environ.setdefault('XLA_FLAGS', ' '.join(QUICK_COMPILE))

import jax  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def float64():
    """Doubles for every test of this folder."""
    with jax.enable_x64(True):
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    from parity_tests.case import all_cases, all_refusals, first_cases

    if 'case' in metafunc.fixturenames:
        metafunc.parametrize('case', all_cases(), ids=lambda case: case.id)
    if 'first_case' in metafunc.fixturenames:
        metafunc.parametrize('first_case', first_cases(), ids=lambda case: case.stem)
    if 'refused' in metafunc.fixturenames:
        metafunc.parametrize('refused', all_refusals(), ids=lambda refused: f'{refused.stem}-{refused.says[:30]}')
