"""`python -m train plan RECIPE --topology NAME`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import tyro
from rich.console import Console

from train.commands.command import Command, console
from train.config import Config, check
from train.errors import UserError
from train.plan.options import as_options
from train.plan.topologies import FORMS, parse

HELP = {
    'topology': (str, 'The devices: v5e:16x16, v6e:4x8, v4:4x4x4, v5p:4x4x8, gpu:8xh100 (a100, h200) or cpu:8.'),
    'json': (bool, 'Print one JSON object instead of tables.'),
    'search': (bool, 'Compile other meshes and remat policies too, and recommend the fastest that fits.'),
}
OWN = [f'--{name}' for name in HELP]
RECIPE = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar='RECIPE', help='Recipe, as for training.')]


@dataclass(frozen=True, kw_only=True)
class Plan(Command):
    """Whether a recipe fits on devices that are not here, and how fast a step can be.

    The recipe's own training step, with any of its options, is compiled on this CPU for a TPU slice, or by XLA:CPU on
    simulated devices for GPUs. Nothing runs, and the data need not be there. Per chip: memory by part against what the
    chip has, FLOPs, collectives, and the time of a step at best.

    If it does not fit, changes are tried until it does: parameters split by fsdp, remat, gradient accumulation, tensor
    parallelism, a smaller batch. Each takes as long as compiling does, a minute or two.
    """

    recipe: RECIPE
    topology: Annotated[str, tyro.conf.arg(help=HELP['topology'][1])]
    json: Annotated[bool, tyro.conf.arg(help=HELP['json'][1])] = False
    search: Annotated[bool, tyro.conf.arg(help=HELP['search'][1])] = False
    options: tyro.conf.Suppress[tuple[str, ...]] = ()

    @classmethod
    def parse(cls, name: str, args: Sequence[str]) -> Self:
        options = list(args)
        at = 0
        while at < len(options) and options[at].split('=')[0] in OWN:
            at += 2 if options[at] == '--topology' else 1
        if at >= len(options) or options[at].startswith('-'):
            return super().parse(name, args)
        recipe = options.pop(at)
        _, chosen = _parsed(recipe, options)
        return cls(recipe=recipe, options=tuple(options), **chosen)

    def execute(self) -> int:
        config, _ = _parsed(self.recipe, self.options)
        check(config)
        if not self.topology:
            raise UserError(f'plan compiles for --topology NAME: {FORMS}')
        topology = parse(self.topology)
        topology.prepare()
        # They are slow to import.
        from train.plan.advice import advise, applied, search
        from train.plan.report import report, summary
        from train.plan.standin import described
        from train.plan.step import Plan as Found
        from train.plan.step import plan_step

        screen = Console(quiet=True) if self.json else console()
        config, why = described(config)
        plan = plan_step(config, topology)
        if why:
            screen.print(f'({why})', markup=False)
        report(config, plan, screen)

        tried: list[dict[str, Any]] = []

        def say(changes: Mapping[str, Any], found: Found | str) -> None:
            words = shlex.join(as_options(changes))
            tried.append({'options': words, 'result': found if isinstance(found, str) else found.json()})
            screen.print(f'  {words}: {found if isinstance(found, str) else summary(found)}', markup=False)

        best = None
        if self.search:
            screen.print('\nlayouts, each compiled:')
            best = search(config, topology, say)
        elif not plan.fits:
            screen.print('\nit does not fit; tried one after the other:')
            best = advise(config, topology, plan, say)
        if tried:
            if best is None:
                screen.print('nothing of this fits: take more or larger chips, or a smaller model')
            else:
                screen.print(f'\nrecommended: {self._command(best[0])}', markup=False)
                report(applied(config, best[0]), best[1], screen)
        if self.json:
            found = plan.json() | {'recipe': self.recipe, 'options': shlex.join(self.options)}
            if tried:
                recommended = best and {'options': shlex.join(as_options(best[0])), **best[1].json()}
                found |= {'tried': tried, 'recommended': recommended}
            console().print(json.dumps(found), markup=False)
        return 0

    def _command(self, changes: Mapping[str, Any]) -> str:
        """The command line that trains with some options changed."""
        changed = {word.removeprefix('--').removeprefix('no-') for word in as_options(changes) if word.startswith('--')}
        kept, skipping = [], False
        for word in self.options:
            if word.startswith('--'):
                key = word.removeprefix('--').partition('=')[0].replace('_', '-')
                skipping = key in changed or key in HELP
            if not skipping:
                kept.append(word)
        return shlex.join(['python', '-m', 'train', self.recipe, *kept, *as_options(changes)])


def _parsed(recipe: str, options: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    from train.cli import parse_with  # which looks for the commands itself

    return parse_with(recipe, options, HELP, command='plan')
