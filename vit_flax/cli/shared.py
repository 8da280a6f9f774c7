"""Options of more than one command; imports nothing, so that --help is quick."""

import argparse


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--preset` and `--arg`."""
    parser.add_argument('--model', metavar='NAME', help='model or preset; `models` lists them')
    parser.add_argument(
        '--preset', metavar='NAME', help="a ready-made size, or 'paper' for the one the paper leads with"
    )
    parser.add_argument(
        '--arg', action='append', default=[], metavar='KEY=VALUE', help='argument of its constructor, may be repeated'
    )
