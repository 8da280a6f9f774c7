"""What a command must offer."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import tyro
from rich.console import Console
from rich.text import Text

from train.config import Checkpoint

RunFolder = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar='RUN', help='Folder of a run.')]
Which = Annotated[
    Checkpoint, tyro.conf.arg(help='The checkpoint that did best on the held-out data, or the newest one.')
]


@dataclass(frozen=True)
class Data:
    """The data set of the run."""

    path: str = ''
    """Where it is now. By default where it was when the run was trained."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Its docstring is the command's help, its fields are the arguments."""

    @classmethod
    def parse(cls, name: str, args: Sequence[str]) -> Self:
        """The command of a command line. What is wrong with it ends the process with exit code 2."""
        return tyro.cli(cls, args=list(args), prog=f'python -m train {name}', description=inspect.getdoc(cls))

    def execute(self) -> int:
        """Does it, and returns the exit code.

        Raises:
          UserError: what was asked for cannot be.
        """
        raise NotImplementedError


def console() -> Console:
    """Where results go: tables fit the terminal, and a file or pipe gets them whole."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def complain(error: Exception) -> None:
    """One line on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text.assemble(('error: ', 'bold red'), str(error)))
