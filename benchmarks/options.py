"""Options that make no sense, at random: each ends in a line and exit code 2, or in a step that a run could make.

Every try is a recipe, made small, with one option of it, network and data set included, at a value drawn from those
that break things, given on the command line with --dry-run:

python benchmarks/options.py --tries 500 --seed 0
"""

import argparse
import contextlib
import io
import random
import re
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator

from train import recipes
from train.cli import main

WHOLE = ('0', '-1', '1', '2', '3', '7', '-2147483648', '2147483648', '9223372036854775808', '1' + 30 * '0')
BROKEN = ('0', '-1', '1', '0.5', '-0.5', '1.5', '2', '1e-300', '1e300', 'nan', 'inf', '-inf')
TEXTS = ('', 'x', '0', '~nobody/x', 300 * 'a', '\udcff', '(', '.*', '/dev/null', '.')
# By the word that stands for a value in the help.
VALUES = {'INT': WHOLE, 'FLOAT': BROKEN, 'STR': TEXTS}
OTHERS = ('x', 'nan', '0 0', '1e9 1e9', '1 2 3', '( x', '.* frozen', '.* - tensor')
# Smaller networks of the same kinds.
VIT = ('--model.dim=8', '--model.depth=1', '--model.heads=1', '--model.dim-head=8', '--model.mlp-dim=8')
PATCHES = '--model.patch-size=8'
VIEWS = ('--objective.local-views=1', '--objective.projection-hidden=8')
SMALL = {
    'digits': (*VIT, PATCHES),
    'mae': (*VIT, PATCHES, '--objective.decoder-dim=8', '--objective.decoder-depth=1'),
    'simmim': (*VIT, PATCHES),
    'mpp': (*VIT, PATCHES),
    'mp3': (*VIT, PATCHES),
    'dino': (*VIT, *VIEWS, '--objective.prototypes=8'),
    'lejepa': (*VIT, *VIEWS, '--objective.slices=8'),
    'fashion_mnist': ('--model.embedding-dim=8', '--model.num-layers=1'),
}
DATA = ('--data.name=digits', '--augment.image-size=16', '--batch-size=8', '--dry-run')
# Seconds after which a try hangs.
PATIENCE = 120


def options(recipe: str) -> list[tuple[str, str]]:
    """Every option of a recipe and the word for its value, as its help has them."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([recipe, *SMALL[recipe], *DATA, '--help'])
    return sorted(set(re.findall(r'^\W* (--(?!no-|help|dry-run)[\w.-]+) (\S+)', said.getvalue(), flags=re.MULTILINE)))


def attempt(command: list[str]) -> tuple[str, str]:
    """What a command ends in, and what it said: `refused` in a line, `help` for values that cannot be parsed, `a step`,
    `diverged`, and what must not be: `traceback`, `lines`, `hangs`."""

    def late(*_):
        raise TimeoutError

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(command)
    except SystemExit as end:
        return 'help' if end.code == 2 else 'traceback', err.getvalue()
    except TimeoutError:
        return 'hangs', ''
    except BaseException:
        return 'traceback', traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    said = err.getvalue()
    if code == 2 and said.startswith('error: ') and said.count('\n') == 1:
        return 'refused', said
    return ('a step' if code == 0 and not said else 'diverged' if code == 1 else 'lines'), said


def draws(seed: int) -> Iterator[list[str]]:
    """Commands without end."""
    dice = random.Random(seed)
    known = {recipe: options(recipe) for recipe in SMALL if recipe in recipes.names()}
    while True:
        recipe = dice.choice(list(known))
        option, kind = dice.choice(known[recipe])
        value = dice.choice(VALUES.get(kind, OTHERS) if dice.random() < 0.95 else OTHERS)
        given = [option, *value.split(' ')] if ' ' in value else [f'{option}={value}']
        yield [recipe, *SMALL[recipe], *DATA, *given]


def sweep(tries: int, seed: int) -> Counter[str]:
    """Outcomes of so many tries; the bad ones are printed."""
    counts: Counter[str] = Counter()
    for command, _ in zip(draws(seed), range(tries), strict=False):
        outcome, said = attempt(command)
        counts[outcome] += 1
        if outcome in ('traceback', 'hangs', 'lines'):
            print(outcome, [arg.encode(errors='backslashreplace').decode() for arg in command], said[-1500:], sep='\n')
    return counts


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tries', type=int, default=500)
    parser.add_argument('--seed', type=int, default=0)
    chosen = parser.parse_args()
    found = sweep(chosen.tries, chosen.seed)
    print(dict(found))
    sys.exit(bool(found['traceback'] + found['hangs'] + found['lines']))
