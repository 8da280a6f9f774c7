"""The numbers of a run: rows of `metrics.jsonl`, TensorBoard events, and the terminal."""

import json
import math
import os
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Row = dict[str, float | int]


class Metrics:
    """`metrics.jsonl` and `tensorboard/`: one row per step that has something to say.

    Args:
      folder: of the run.
      after: rows after this step are of a past that the run has gone back behind, and are removed.
      write: False on all hosts but the first: nothing is touched.
    """

    def __init__(self, folder: Path, after: int, write: bool = True):
        self._file: TextIO | None = None
        if not write:
            return
        from tensorboardX import SummaryWriter  # slow to import

        self.path = folder / 'metrics.jsonl'
        keep = [row for row in read_rows(self.path) if row['step'] <= after]
        rewritten = self.path.with_suffix('.tmp')
        rewritten.write_text(''.join(json.dumps(row) + '\n' for row in keep))
        os.replace(rewritten, self.path)
        self._file = self.path.open('a')
        self._events = SummaryWriter(str(folder / 'tensorboard'), purge_step=after + 1)

    def write(self, row: Row) -> None:
        """Appends a row; it is in the file when this returns."""
        if self._file is None:
            return
        self._file.write(json.dumps(row) + '\n')
        self._file.flush()
        for name, value in row.items():
            if name != 'step':
                self._events.add_scalar(name, value, row['step'])

    def close(self) -> None:
        if self._file is None:
            return
        self._file.close()
        try:
            self._events.close()
        except OSError:
            # The events are a copy of the rows. On a full disk their writer would try again at exit, and fail loudly.
            self._events.file_writer.event_writer.close = lambda: None


def read_rows(path: Path) -> list[Row]:
    """The rows of a `metrics.jsonl`. What is no row is left out: the end of a process cuts off the last line, and a
    disk may damage any."""
    lines = path.read_bytes().decode(errors='replace').splitlines() if path.exists() else []
    return [row for row in map(_row, lines) if row is not None]


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get('step')) is not int:
        return None
    return (
        row
        if all(type(value) is float or (type(value) is int and abs(value) < 2**63) for value in row.values())
        else None
    )


class Terminal:
    """A progress bar on a terminal, a line now and then elsewhere.

    Args:
      steps: of the whole run.
      quiet: prints nothing; for all hosts but the first.
    """

    def __init__(self, steps: int, quiet: bool = False):
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._steps = steps
        self._bar: Progress | None = None
        self._numbers: Row = {}

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def start(self, step: int) -> None:
        """Shows the bar, from `step` on."""
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn('[bold]{task.completed}[/]/{task.total}'),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TextColumn('[dim]left[/]'),
                TimeRemainingColumn(),
                _Numbers(),
                console=self.console,
            )
            self._task = self._bar.add_task('', total=self._steps, completed=step, numbers='compiling')
            self._bar.start()
        else:
            self._began, self._from = time.monotonic(), step

    def at(self, step: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def update(self, row: Row) -> None:
        """Takes in the numbers of a row."""
        self._numbers.update(row)
        if self._bar is not None:
            self._bar.update(self._task, numbers=describe(self._numbers))
        elif 'val/loss' in row:
            per_step = (time.monotonic() - self._began) / (row['step'] - self._from)
            left = duration(per_step * (self._steps - row['step']))
            self.say(f'step {row["step"]}/{self._steps}  {describe(self._numbers)}  {left} left')

    def stop(self) -> None:
        """Takes the bar away from further printing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Numbers(ProgressColumn):
    """The newest numbers, right of the bar; the first to be cut if the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields['numbers'], style='cyan', no_wrap=True, overflow='ellipsis')


def describe(row: Row) -> str:
    """The numbers people look for, in words."""
    parts = []
    if 'train/loss' in row:
        parts.append(f'loss {row["train/loss"]:.3f}')
    if 'val/loss' in row:
        parts.append(f'val loss {row["val/loss"]:.3f}')
    if 'val/accuracy' in row:
        parts.append(f'val accuracy {100 * row["val/accuracy"]:.1f} %')
    for name, title in (('knn', 'k-NN'), ('linear', 'linear probe')):
        if f'val/{name}_accuracy' in row:
            parts.append(f'{title} {100 * row[f"val/{name}_accuracy"]:.1f} %')
    if 'images_per_second' in row:
        parts.append(f'{row["images_per_second"]:,.0f} images/s')
    if 'mfu' in row:
        parts.append(f'MFU {100 * row["mfu"]:.0f} %')
    return '  '.join(parts)


def duration(seconds: float) -> str:
    """`75.2 -> '1 min 15 s'`."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {seconds} s' if minutes else f'{seconds} s'
