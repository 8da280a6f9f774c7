"""The parser, and what becomes of errors."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vit_flax.printing import shown

COMMANDS = ('models', 'describe', 'inspect', 'convert', 'compare', 'export')
DESCRIPTION = """Vision transformers in JAX/Flax: what there is, and weights between PyTorch and Flax.

exit codes: 0 done, 1 the two sides of a comparison differ, 2 something asked for cannot be done"""


def main(argv: Sequence[str]) -> int:
    """Runs a command and returns the exit code: 0, 1 if a comparison finds a difference, 2 for user errors.

    A command line that cannot be parsed, and --help, end the process with `SystemExit`, as argparse does.
    """
    args = parser().parse_args(argv)
    from vit_flax.cli.errors import UserError
    from vit_flax.weights.files import FileError  # imports JAX, which --help need not wait for

    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of fewer characters than names have
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except (UserError, FileError) as error:
        return _refused(str(error))
    except MemoryError:
        return _refused('too little memory for this')
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


class _Parser(argparse.ArgumentParser):
    """Its messages repeat what was given."""

    def error(self, message: str) -> NoReturn:
        super().error(shown(message))


def _refused(message: str) -> int:
    """Says so, in lines of the message's own alone: what comes out of a file moves no cursor."""
    sys.stdout.flush()
    sys.stderr.write('error: ' + '\n'.join(shown(line, 10_000) for line in message.expandtabs(4).split('\n')) + '\n')
    return 2


def parser() -> argparse.ArgumentParser:
    """One subcommand for each file; the docstring of a file is its help."""
    top = _Parser(
        prog='python -m vit_flax', description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name in COMMANDS:
        module = importlib.import_module(f'vit_flax.cli.{name}')
        text = (module.__doc__ or '').strip()
        command = commands.add_parser(
            name,
            help=text.partition('\n')[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top
