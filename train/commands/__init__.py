"""What can be done beside training: one file each, with one class whose fields are its arguments."""

import sys

from train import catalogue
from train.commands.command import Command

# What the files share.
SHARED = ('command', 'picture')


def names() -> list[str]:
    return catalogue.names(sys.modules[__name__], SHARED)


def find(name: str) -> type[Command]:
    """The class of a command, or a `UserError` with the nearest name."""
    return catalogue.class_of(catalogue.module(sys.modules[__name__], name, names(), 'no command is called'), Command)
