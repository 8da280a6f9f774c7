"""The README's command for tests, in a fresh environment of each Python that is found here.

Each gets the newest releases that its Python takes: 3.11 another JAX than 3.12 and 3.13. Run from the repository's
root; what follows `--` goes to pytest:

    python benchmarks/each_python.py
    python benchmarks/each_python.py 3.13 -- --stem=cait
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTHONS = ('3.11', '3.12', '3.13')
ROOT = Path(__file__).resolve().parent.parent
VERSIONS = "import importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in ('jax', 'flax', 'numpy')))"


def find(version: str) -> str | None:
    """The Python of this version on the path, or among those of pyenv, whose shims do not run them all."""
    of_pyenv = sorted(Path.home().glob(f'.pyenv/versions/{version}.*/bin/python'))
    for python in filter(None, (shutil.which(f'python{version}'), *map(str, of_pyenv))):
        if subprocess.run([python, '--version'], check=False, capture_output=True).returncode == 0:
            return python
    return None


def check(python: str, arguments: list[str]) -> bool:
    """Installs the project with its tests' extras and runs them; whether all is well."""
    with tempfile.TemporaryDirectory(prefix='each_python_') as folder:
        subprocess.run([python, '-m', 'venv', folder], check=True)
        inside = str(Path(folder) / 'bin' / 'python')
        install = [inside, '-m', 'pip', 'install', '--quiet', '-e', f'{ROOT}[test]']
        if subprocess.run(install, cwd=ROOT, check=False).returncode:
            print(f'{python}: the project cannot be installed')
            return False
        versions = subprocess.run([inside, '-c', VERSIONS], check=True, capture_output=True, text=True).stdout.strip()
        start = time.perf_counter()
        code = subprocess.run([inside, '-m', 'pytest', *arguments], cwd=ROOT, check=False).returncode
        minutes = (time.perf_counter() - start) / 60
        print(f'{python} with {versions}: {"passed" if code == 0 else f"exit code {code}"} in {minutes:.1f} minutes')
        return code == 0


def main() -> int:
    end = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('versions', nargs='*', default=PYTHONS, help='3.12 and the like; all by default')
    results = []
    for version in parser.parse_args(sys.argv[1:end]).versions:
        python = find(version)
        if python is None:
            print(f'python{version} is not here')
        else:
            results.append(check(python, sys.argv[end + 1 :]))
    return 0 if results and all(results) else 1


if __name__ == '__main__':
    sys.exit(main())
