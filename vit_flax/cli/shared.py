"""Options of more than one command; imports nothing of JAX, so that --help is quick."""

import argparse
import re
from pathlib import Path


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--preset` and `--arg`."""
    parser.add_argument('--model', metavar='NAME', help='model or preset; `models` lists them')
    parser.add_argument(
        '--preset', metavar='NAME', help="a ready-made size, or 'paper' for the one the paper leads with"
    )
    parser.add_argument(
        '--arg', action='append', default=[], metavar='KEY=VALUE', help='argument of its constructor, may be repeated'
    )


def add_source_argument(parser: argparse.ArgumentParser) -> None:
    """`--source`."""
    parser.add_argument(
        '--source',
        metavar='NAME',
        help="whose names torch's are (default: as the model has them); NAME/NETWORK writes as that one. "
        + '; '.join(f'{name}: {title}' for name, title in source_titles().items()),
    )


def source_titles() -> dict[str, str]:
    """Sources, and a few words about each, read from their files."""
    titles = {}
    for path in sorted((Path(__file__).parents[1] / 'weights/sources').glob('[!_]*.py')):
        found = re.search(
            r"^SOURCE = \w+\(\s*'(\w+)',\s*(?:'([^']*)'|\"([^\"]*)\")", path.read_text(encoding='utf-8'), re.M
        )
        if found:
            titles[found[1]] = found[2] or found[3]
    return titles
