"""Writes the generated pages: `python -m parity_tests.docs`.

docs/models.md (parity measured now, parameters at the paper's size counted on both sides, speed as last recorded in
docs/speed.csv by benchmarks/speed.py), its short form in README.md, and docs/quirks.md (the `# upstream:` comments).
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import torch

from parity_tests.case import all_cases, build_upstream, paper_model
from parity_tests.compare import compare
from parity_tests.upstream import VERSION
from vit_flax.registry import model_info, stems

ROOT = Path(__file__).parent.parent
BEGIN, END = '<!-- models: written by python -m parity_tests.docs -->', '<!-- /models -->'


def paper_sizes(stem: str) -> tuple[int, int]:
    """Parameters at the paper's size, in Flax and in upstream; nothing is allocated."""
    model = model_info(stem).build(**model_info(stem).paper_size)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.example_input())['params']
    with torch.device('meta'):
        upstream = build_upstream(paper_model(stem))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)), sum(p.numel() for p in upstream.parameters())


def facts(stem: str) -> str:
    """The cells of a model's row that no machine changes."""
    info = model_info(stem)
    ours, theirs = paper_sizes(stem)
    if ours != theirs:
        raise AssertionError(f'{stem}: {ours} parameters, upstream has {theirs}')
    cases = sum(case.stem == stem for case in all_cases())
    address = info.arxiv if info.arxiv.startswith('http') else f'https://arxiv.org/abs/{info.arxiv}'
    paper = f'[{info.title}]({address})' if info.arxiv else info.title
    return f'| `{stem}` | `{info.build.__name__}` | {paper} | {ours:,} | {cases} |'


def speeds() -> dict[str, str]:
    """Cells with vit-pytorch's time over ours, forward and training step, by stem."""
    with (ROOT / 'docs' / 'speed.csv').open() as lines:
        return {row['model']: f'{row["forward"]} | {row["train step"]}' for row in csv.DictReader(lines)}


def rows() -> Iterator[str]:
    """One row of the table for each model."""
    for stem in stems():
        reports = [compare(case)[0] for case in all_cases() if case.stem == stem]
        worst = [max(max(getattr(report, kind).values(), default=0.0) for report in reports) for kind in KINDS]
        figures = ' | '.join(f'{error:.0e}' if error else '-' for error in worst)
        loosest = max(case.tolerance for case in all_cases() if case.stem == stem)
        reasons = {case.reason for case in all_cases() if case.stem == stem and case.reason}
        bound = f'{loosest:.0e}' + (f' ({"; ".join(sorted(reasons))})' if reasons else '')
        yield f'{facts(stem)} {figures} | {bound} | {speeds().get(stem, "- | -")} |'


KINDS = ('outputs', 'gradients', 'state')
HEADER = (
    '| module | class | paper | parameters | cases | outputs | gradients | statistics | bound '
    '| forward | train step |',
    '|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|',
)


def quirks() -> str:
    """The page of the `# upstream:` comments, by model."""
    page = f'# Quirks\n\nWhere vit-pytorch {VERSION} departs from its paper or itself, and what is done about it.\n'
    for stem in stems():
        found = []
        for place in ('vit_flax/models', 'vit_torch_ref/models'):
            text = (ROOT / place / f'{stem}.py').read_text()
            comments = re.findall(r'# upstream: ((?:.*)(?:\n\s*# .*)*)', text)
            found += [re.sub(r'\s*\n\s*# ', ' ', comment) for comment in comments]
        if found:
            items = '\n'.join(f'- {comment[0].upper()}{comment[1:]}' for comment in dict.fromkeys(found))
            page += f'\n## {stem}\n\n{items}\n'
    return page


def main() -> None:
    with jax.enable_x64(True):
        table = '\n'.join([*HEADER, *rows()])
    (ROOT / 'docs' / 'models.md').write_text(
        f'# Models\n\nParity with vit-pytorch {VERSION}: largest relative error in float64 over all cases, measured '
        "by `python -m parity_tests.docs`. Parameters are at the size the paper leads with, equal to upstream's "
        f'count.\n\n{table}\n'
    )
    readme = (ROOT / 'README.md').read_text()
    before, rest = readme.split(BEGIN)
    (ROOT / 'README.md').write_text(f'{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}')
    (ROOT / 'docs' / 'quirks.md').write_text(quirks())


if __name__ == '__main__':
    main()
