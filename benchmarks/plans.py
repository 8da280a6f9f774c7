"""The table of plans in docs/scale.md: every row is a command, compiled here.

    python benchmarks/plans.py [WORD ...] [--again]

needs `pip install 'vit-linen[plan]'`. Rows whose command has every WORD, or all; those that `docs/plans.jsonl` has
already are not compiled again without `--again`, so that an interrupted sweep goes on.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from train.plan.chips import CHIPS

ROOT = Path(__file__).parent.parent
RECORD, DOCS = ROOT / 'docs' / 'plans.jsonl', ROOT / 'docs' / 'scale.md'
CHIPS_BETWEEN = '<!-- chips -->\n', '<!-- /chips -->'
BEGIN, END = '<!-- plans: made by benchmarks/plans.py -->\n', '<!-- /plans -->'

REMAT = '--model.remat full'
FSDP = f'{REMAT} --mesh.fsdp'
MAE_H = (
    'mae --augment.image-size 224 --model.patch-size 14 --model.dim 1280 --model.depth 32 --model.heads 16 '
    '--model.dim-head 80 --model.mlp-dim 5120 --model.dtype bfloat16 --model.scan --objective.decoder-dim 512 '
    '--objective.decoder-depth 8 --objective.decoder-heads 16 --objective.decoder-dim-head 32'
)
DINO_L = (
    'dino --augment.image-size 224 --objective.local-size 96 --model.patch-size 16 '
    '--model.dim 1024 --model.depth 24 --model.heads 16 --model.dim-head 64 --model.mlp-dim 4096 '
    '--model.dtype bfloat16 --model.scan'
)
NAVIT_L = (
    'imagenet --model.name na_vit --model.patch-size 16 --model.dim 1024 --model.depth 24 --model.heads 16 '
    '--model.dim-head 64 --model.mlp-dim 4096'
)

VIT = 'imagenet --model.name vit_pytorch'
# What a row is called, and the options of its command.
ROWS = (
    ('ViT-B/16', f'{VIT}_base_patch16_224 --topology v5e:2x4 --batch-size 1024 --model.remat full'),
    ('ViT-B/16', f'{VIT}_base_patch16_224 --topology v5e:16x16 --batch-size 4096'),
    ('ViT-B/16', f'{VIT}_base_patch16_224 --topology v5e:16x16 --batch-size 4096 {FSDP} 256'),
    ('ViT-B/16', f'{VIT}_base_patch16_224 --topology gpu:8xh100 --batch-size 1024 {REMAT}'),
    ('ViT-L/16', f'{VIT}_large_patch16_224 --topology v6e:4x8 --batch-size 4096 {FSDP} 32'),
    ('ViT-L/16', f'{VIT}_large_patch16_224 --topology v5e:16x16 --batch-size 4096 {FSDP} 256'),
    ('ViT-L/16', f'{VIT}_large_patch16_224 --topology gpu:8xh100 --batch-size 1024 {FSDP} 8'),
    ('ViT-H/14', f'{VIT}_huge_patch14_224 --topology v4:4x4x8 --batch-size 4096 {FSDP} 128'),
    ('ViT-g/14', f'{VIT}_giant_patch14_224 --topology v5e:16x16 --batch-size 4096 {FSDP} 256'),
    ('ViT-g/14', f'{VIT}_giant_patch14_224 --topology v6e:16x16 --batch-size 4096 {FSDP} 256'),
    ('ViT-22B/14', f'{VIT}_22b_patch14_224 --topology v5p:8x8x16 --batch-size 4096 {FSDP} 1024'),
    ('MAE, ViT-H/14', f'{MAE_H} --topology v5e:8x16 --batch-size 4096 {FSDP} 128'),
    ('DINO, ViT-L/16', f'{DINO_L} --topology v5p:4x4x4 --batch-size 1024 {FSDP} 64'),
    ('NaViT-L/16', f'{NAVIT_L} --topology v5e:8x8 --batch-size 2048 {FSDP} 64'),
)  # fmt: skip


def read() -> dict[str, dict]:
    """What was found, by command."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return {row['command']: row for row in map(json.loads, lines)}


def compiled(command: str) -> dict:
    """Runs `plan` and returns its JSON, or what went wrong."""
    done = subprocess.run(
        [sys.executable, '-m', 'train', 'plan', *shlex.split(command), '--json'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout) if done.returncode == 0 else {'error': done.stderr.strip()[-500:]}
    found.pop('layers', None)
    return {'command': command, **found}


def table(found: dict[str, dict]) -> str:
    """The rows in Markdown."""
    heads = (
        'model', 'chips', 'mesh', 'batch', 'state', 'temporaries', 'of', 'fits', 'FLOPs', 'gathered', 'reduced', 'ms',
        'bound by', 'MFU', 'command',
    )  # fmt: skip
    lines = [f'| {" | ".join(heads)} |', '|' + '---|' * len(heads)]
    for title, command in ROWS:
        row = found.get(command)
        if row is None or 'error' in row:
            continue
        best = row.get('recommended') or row
        kinds = best['collectives'] or {}
        moved = [
            sum(sums['bytes'] for kind, sums in kinds.items() if kind in names) / 2**30
            for names in (('all-gather', 'collective-permute'), ('all-reduce', 'reduce-scatter'))
        ]
        mesh = ' '.join(f'{axis}={size}' for axis, size in best['mesh'].items() if size > 1)
        extra = f' {best["options"]}' if best is not row else ''
        cells = [
            title,
            f'{row["chips"]} ({row["topology"]})',
            mesh,
            f'{best["batch_size"]:,}',
            f'{best["state_gib"]:.2f}',
            f'{best["temporaries_gib"]:.2f}',
            f'{best["limit_gib"]:.2f}',
            'yes' if best['fits'] else 'no',
            f'{best["flops"] / 1e12:.2f} T',
            *(f'{size:.2f}' for size in moved),
            f'{1e3 * best["step_seconds"]:.0f}',
            best['bound'],
            f'{100 * best["utilisation"]:.0f} %',
            f'`plan {command}{extra}`',
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def chips() -> str:
    """The chips in Markdown."""
    lines = ['| | memory, GiB | bfloat16, TFLOP/s | memory, GB/s | one link, GB/s |', '|---|---|---|---|---|']
    for name, chip in CHIPS.items():
        figures = (chip.memory / 2**30, chip.peak['bfloat16'] / 1e12, chip.bandwidth / 1e9, chip.link / 1e9)
        cells = [f'{figures[0]:.2f}', *(f'{figure:,.0f}' for figure in figures[1:])]
        lines.append(f'| {chip.title} (`{name}`) | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('words', nargs='*', metavar='WORD')
    parser.add_argument('--again', action='store_true', help='also rows that were compiled before')
    args = parser.parse_args()
    for title, command in ROWS:
        found = read()
        if not all(word in command for word in args.words) or (command in found and not args.again):
            continue
        found[command] = compiled(command)
        known = [row for _, row in ROWS if row in found]
        RECORD.write_text(''.join(json.dumps(found[row]) + '\n' for row in known))
        row = found[command]
        print(
            title,
            row.get('error') or {key: row[key] for key in ('fits', 'total_gib', 'step_seconds', 'utilisation')},
            flush=True,
        )
    text = DOCS.read_text()
    for begin, end, rows in ((BEGIN, END, table(read())), (*CHIPS_BETWEEN, chips())):
        before, _, rest = text.partition(begin)
        text = before + begin + rows + end + rest.partition(end)[2]
    DOCS.write_text(text)


if __name__ == '__main__':
    main()
