"""`python -m train plots RUN`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from train.commands.command import Command, Data, RunFolder, Which, console
from train.errors import UserError
from train.log import read_rows
from train.places import place
from train.run import data_of, open_config, open_run


@dataclass(frozen=True, kw_only=True)
class Plots(Command):
    """Draws the plots of a run again, finished or not, from what it has stored until now."""

    run: RunFolder
    out: Annotated[str, tyro.conf.arg(metavar='DIR', help='Folder of the plots. By default RUN/plots.')] = ''
    data: Data = field(default_factory=Data)
    checkpoint: Which = 'last'

    def execute(self) -> int:
        folder, _, _ = open_config(self.run)
        rows = read_rows(folder / 'metrics.jsonl')
        out, screen = place(self.out, '--out') if self.out else folder / 'plots', console()
        # matplotlib is slow to import
        from train.plots.curves import curves
        from train.plots.draw import draw

        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--out {out} cannot be written: {error.strerror}') from error
        try:
            run = open_run(self.run, self.checkpoint)
            records = data_of(run, 'val', self.data.path)
        except UserError as error:
            if not rows:
                raise
            screen.print(f'only the curves, since {error}', markup=False)
            drawn = [out / 'curves.png']
            curves(drawn[0], rows)
        else:
            augment, classes = run.config.augment, run.facts.classes
            objective = run.config.objective
            drawn = draw(out, rows, records, objective, run.model, run.scale, run.variables, augment, classes)
        screen.print(f'drawn in {out}: {", ".join(path.name for path in drawn)}', markup=False)
        return 0
