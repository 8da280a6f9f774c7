"""Objectives: one file each, with one class whose fields are its options. All of it is pure."""

import sys

from train import catalogue
from train.objectives.objective import Objective

# What they share.
SHARED = ('objective', 'mixing', 'options', 'pretraining', 'teacher_schedule')


def names() -> list[str]:
    return catalogue.names(sys.modules[__name__], SHARED)


def find(name: str) -> type[Objective]:
    """The class of an objective, or a `UserError` with the nearest name."""
    file = catalogue.module(sys.modules[__name__], name, names(), 'no objective is called')
    return catalogue.class_of(file, Objective)
