"""Commands in the pages are those that the trainer takes: the real parsers read them, and bash reads the scripts."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from train import commands, recipes
from train.cli import parse
from train.config import check
from train.conftest import ROOT

SCALE = ROOT / 'docs' / 'scale.md'
# What follows a command in a line of the shell, where it is quoted for another host too.
AFTER = re.compile(r"\s(?:>>?|<|&&?|\|)(?:\s|$)|'$")


def blocks(page: str) -> list[str]:
    """What stands in a page to be pasted, each command in a line of its own."""
    return [text.replace('\\\n', ' ') for text in re.findall(r'```(?:console|bash)\n(.*?)```', page, re.DOTALL)]


def train_commands(page: Path) -> set[tuple[str, ...]]:
    """Arguments of every `python -m train`."""
    found = re.findall(r'python -m train (.*)', '\n'.join(blocks(page.read_text())))
    return {tuple(shlex.split(AFTER.split(args)[0].replace('$NODE', '0'), comments=True)) for args in found}


COMMANDS = sorted(train_commands(SCALE))
OTHERS = sorted(train_commands(ROOT / 'README.md') - {*COMMANDS})


@pytest.mark.parametrize(
    'command', [*COMMANDS, *(pytest.param(command, marks=pytest.mark.exhaustive) for command in OTHERS)], ids=' '.join
)
def test_every_command_is_one(command):
    name, *args = command
    if name in commands.names():
        commands.find(name).parse(name, args)
        return
    assert name in recipes.names()
    config, _ = parse(name, args)
    check(config)


def test_the_runbook_has_commands_of_all_kinds():
    listed = [' '.join(command) for command in COMMANDS]
    for wanted in ('--mesh.coordinator', '--mesh.timeout', '--profile', '--dry-run', 'plan imagenet', 'eval '):
        assert any(wanted in command for command in listed), wanted


def test_scripts_are_bash():
    for block in blocks(SCALE.read_text()):
        done = subprocess.run(['bash', '-n'], input=block, text=True, capture_output=True)
        assert done.returncode == 0, (block, done.stderr)


def test_links_of_the_page_lead_somewhere():
    page = SCALE.read_text()
    anchors = {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in re.findall(r'^#+ (.*)', page, re.M)}
    for anchor in re.findall(r'\]\(#([^)]+)\)', page):
        assert anchor in anchors, anchor
