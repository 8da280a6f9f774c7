"""Writes the generated pages: `python -m parity_tests.docs [PAGE ...]`, all if none is named.

models: docs/models.md (parity measured now, parameters at the paper's size counted on both sides) and its short form
in README.md; objectives: docs/objectives.md, likewise; speed: docs/speed.md, from docs/speed.csv as benchmarks/speed.py
recorded it; quirks: docs/quirks.md, the `# upstream:` comments; weights: docs/weights.md, the sources of weights.
"""

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parity_tests import conftest  # noqa: F401  first: it sets the flags for quick compilation

# isort: split
import jax
import torch

import vit_flax
from parity_tests import objective_case
from parity_tests.case import Case, all_cases, build_upstream, paper_model
from parity_tests.compare import Report, compare
from parity_tests.upstream import VERSION
from vit_flax.blocks.module import example_inputs
from vit_flax.registry import model_info, stems
from vit_flax.weights.source import GIVEN, OwnSource
from vit_flax.weights.sources import OWN, SOURCES

ROOT = Path(__file__).parent.parent
BEGIN, END = '<!-- models: written by python -m parity_tests.docs -->', '<!-- /models -->'


def paper_sizes(stem: str) -> tuple[int, int]:
    """Parameters at the paper's size, in Flax and in upstream; nothing is allocated where that can be helped."""
    build = model_info(stem).build
    # one layer of a stack is traced for all
    scan = {'scan': True} if build.takes('scan') else {}
    model = build(**model_info(stem).paper_size, **scan)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(model))['params']
    try:
        with torch.device('meta'):
            upstream = build_upstream(paper_model(stem))
    except RuntimeError:
        # it reads the values of a tensor while it is built
        upstream = build_upstream(paper_model(stem))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)), sum(p.numel() for p in upstream.parameters())


def name_and_paper(stem: str) -> str:
    """The first cells of a model's row; in the README there are no others."""
    info = model_info(stem)
    address = info.arxiv if info.arxiv.startswith('http') else f'https://arxiv.org/abs/{info.arxiv}'
    paper = f'[{info.title}]({address})' if info.arxiv else info.title
    return f'| `{stem}` | `{info.build.__name__}` | {paper} |'


def facts(stem: str) -> str:
    """The cells of a model's row that no machine changes."""
    ours, theirs = paper_sizes(stem)
    if ours != theirs:
        raise AssertionError(f'{stem}: {ours} parameters, upstream has {theirs}')
    return f'{name_and_paper(stem)} {ours:,} | {oracles([case for case in all_cases() if case.stem == stem])} |'


def oracles(cases: Sequence[Case]) -> str:
    """The cells that count cases apart: held against upstream, and against our own reference alone."""
    alone = sum(rests_on_the_reference(case) for case in cases)
    return f'{len(cases) - alone} | {alone or "-"}'


def rests_on_the_reference(case: Case) -> bool:
    """Whether upstream fails in a case, and cannot be mended so that it runs."""
    return case.upstream_fails is not None and not getattr(case, 'upstream_mend', None)


def rows() -> Iterator[str]:
    """One row of the table for each model."""
    for stem in stems():
        cases = [case for case in all_cases() if case.stem == stem]
        figures = ' | '.join(f'{error:.0e}' if error else '-' for error in worst(compare(case)[0] for case in cases))
        yield f'{facts(stem)} {figures} | {bound(cases)} |'


def worst(reports: Iterable[Report]) -> list[float]:
    """The largest error of each of `KINDS`."""
    errors = [[max(getattr(report, kind).values(), default=0.0) for kind in KINDS] for report in reports]
    return [max(column) for column in zip(*errors, strict=True)]


def bound(cases: Sequence[Case]) -> str:
    """The loosest tolerance, and why it is looser than elsewhere."""
    reasons = {case.reason for case in cases if case.reason}
    return f'{max(case.tolerance for case in cases):.0e}' + (f' ({"; ".join(sorted(reasons))})' if reasons else '')


KINDS = ('outputs', 'gradients', 'state')
HEADER = (
    '| module | class | paper | parameters | cases | reference only | outputs | gradients | statistics | bound |',
    '|---|---|---|--:|--:|--:|--:|--:|--:|--:|',
)
INTRODUCTION = f"""# Models

Parity in float64 with a PyTorch reference: the largest relative error over all cases, measured by
`python -m parity_tests.docs`. The reference is itself held to vit-pytorch {VERSION}, that of timm's networks
([timm.md](timm.md)) to timm, weights, outputs, gradients and statistics, in the *cases* of the first column. Where
upstream fails (an argument that crashes, a draw that it does not let one give) our own reference goes further than it,
and is all that those cases rest on: *reference only*. Parameters are at the size the paper leads with, equal to
upstream's count. Speed is in [speed.md](speed.md), departures from the papers in [quirks.md](quirks.md).

"""


def quirks() -> str:
    """The page of the `# upstream:` comments, by model."""
    page = f'# Quirks\n\nWhere vit-pytorch {VERSION} departs from its paper or itself, and what is done about it.\n'
    for folder in ('models', 'transformers', 'objectives'):
        sides = (ROOT / side / folder for side in ('vit_flax', 'vit_torch_ref'))
        names = sorted({path.stem for side in sides for path in side.glob('[a-z]*.py')})
        for name in names:
            # what the reference alone has to tell, such as where upstream crashes, where ours has nothing
            found = upstream_comments(f'vit_flax/{folder}/{name}.py') or upstream_comments(
                f'vit_torch_ref/{folder}/{name}.py'
            )
            if found:
                title = name if folder == 'models' else f'{name} ({folder})'
                page += f'\n## {title}\n\n' + ''.join(f'- {sentence(comment)}\n' for comment in found)
    return page


def upstream_comments(file: str) -> list[str]:
    """What stands behind `# upstream:`, each once and on one line."""
    text = (ROOT / file).read_text() if (ROOT / file).exists() else ''
    comments = re.findall(r'# upstream: ((?:.*)(?:\n\s*# .*)*)', text)
    return list(dict.fromkeys(re.sub(r'\s*\n\s*# ', ' ', comment) for comment in comments))


def sentence(comment: str) -> str:
    """With a capital, unless it begins with a name, and a full stop."""
    name = re.match(r'\S*[_=(`]', comment)
    return (comment if name else comment[0].upper() + comment[1:]).rstrip('.') + '.'


def write_models() -> None:
    with jax.enable_x64(True):
        table = '\n'.join([*HEADER, *rows()])
    (ROOT / 'docs' / 'models.md').write_text(f'{INTRODUCTION}{table}\n')
    readme = (ROOT / 'README.md').read_text()
    before, rest = readme.split(BEGIN)
    short = '\n'.join(['| module | class | paper |', '|---|---|---|', *map(name_and_paper, stems())])
    (ROOT / 'README.md').write_text(f'{before}{BEGIN}\n{short}\n{END}{rest.split(END)[1]}')


def speed() -> str:
    """The page of the measured ratios."""
    with (ROOT / 'docs' / 'speed.csv').open() as lines:
        measured = list(csv.DictReader(lines))
    columns = ('model', 'forward', 'train step', 'batch', 'cores')
    table = ''.join('| ' + ' | '.join(row[column] for column in columns) + ' |\n' for row in measured)
    return (
        "# Speed\n\nvit-pytorch's time over ours, so that above 1 ours is faster: float32 on a CPU, at the size of the "
        "model's paper, side by side and turn by turn (`python benchmarks/speed.py MODEL --record`). A training step "
        'is forward, backward and AdamW. Most rows are two rounds on one core while the other was busy: read them as '
        'within a fifth or more, and measure again before relying on one.\n\n'
        f'| {" | ".join(columns)} |\n|---|--:|--:|--:|--:|\n{table}'
    )


def objective_rows() -> Iterator[str]:
    """One row of the table for each objective."""
    for stem in objective_case.stems():
        cases = [case for case in objective_case.all_objective_cases() if case.stem == stem]
        reports = [objective_case.compare(case)[0] for case in cases]
        worst = [max(max(getattr(report, kind).values(), default=0.0) for report in reports) for kind in OF_STEPS]
        figures = ' | '.join(f'{error:.0e}' if error else '-' for error in worst)
        classes = ', '.join(f'`{name}`' for name in dict.fromkeys(case.class_name for case in cases))
        title = (ROOT / f'vit_flax/objectives/{stem}.py').read_text().removeprefix('"""').partition('\n')[0]
        paper = re.sub(r'^(.*), arXiv:([\d.]+\d)[^\w]?.*$', r'[\1](https://arxiv.org/abs/\2)', title)
        yield f'| `{stem}` | {classes} | {paper} | {oracles(cases)} | {figures} |'


OF_STEPS = ('loss', 'gradients', 'state', 'parameters')


def objectives() -> str:
    """The page of the objectives."""
    with jax.enable_x64(True):
        table = '\n'.join(objective_rows())
    return (
        '# Objectives\n\nParity with a PyTorch reference for the same draws over three steps with an optimizer '
        '(AdamW or SGD with momentum): largest relative error in float64 over all cases, measured by '
        f'`python -m parity_tests.docs`; the bound is 1e-9 everywhere. The reference is held to vit-pytorch {VERSION} '
        'in the first column of cases, mended where it does not run; the second rests on the reference alone. State '
        'is what an objective keeps beside parameters: teachers, centres, statistics. Where upstream departs from its '
        'paper is told in '
        '[quirks.md](quirks.md), and each objective has a `paper(...)` preset where that matters.\n\n'
        '| module | class | paper | cases | reference only | loss | gradients | state | parameters |\n'
        f'|---|---|---|--:|--:|--:|--:|--:|--:|\n{table}\n'
    )


WEIGHTS = """# Weights of others

## By name

`vit_flax.from_pretrained(name)` returns a network and its variables. The name is a file; a folder with `config.json`,
as timm and Hugging Face save it; a repository of the Hugging Face hub, `google/vit-base-patch16-224`; or one of timm's
with its tag, `vit_small_patch16_224.augreg_in1k` ([timm.md](timm.md) has them). The hub needs
`pip install 'vit-linen[hub]'`: its cache is used, `revision=` pins a commit, `offline=True` asks nobody, and what does
not have the hash that the hub announced is deleted unread (a cache without links, as on Windows, keeps no hash to
check). A file without a configuration is told by its names and shapes where these suffice; otherwise
`model='vit_small_patch16_224'` names the network.

- `image_size=(h, w)` resamples position tables between the true grids, by the convention of the source:

<!-- resampling -->
- `patch_size=` resizes the patch projection (arXiv:2212.08013), `in_chans=` folds or repeats the first kernel,
  `num_classes=` draws a new head, or leaves it out if 0, as timm does all three. Other arguments are the network's,
  `scan=True` or `drop_path_rate=0.1`; `dtype` is that of the computation, `param_dtype` that of the parameters.
- `vit_flax.preprocessing(name)` is a function from an image, of Pillow or bytes, to the array that the network takes:
  timm's transform of evaluation.

`python -m train predict NAME photo.jpg` names the classes of photographs, `python -m train finetune --init NAME
--data.path FOLDER` trains on images in folders, and every recipe takes `--init NAME`.

## State dicts

`vit_flax.from_torch(model, state_dict, source=...)` reads a state dict, `to_torch` writes one, bit for bit in both
directions; `python -m vit_flax convert IN OUT --model ... --source ...` does the same with files (`.safetensors`,
`.pth`, `.npz`, `.msgpack`). Whose names a file has is told by `python -m vit_flax inspect FILE`, and by the error where
another source was named. Every name must be used and every variable filled. What is around a state dict, such as
`{'model': ...}`, `{'teacher': ...}`, `module.`, `_orig_mod.` or the text encoder beside an image encoder, is taken off,
and said: `report=print`, in commands on stderr. Of several copies of one network that of the EMA or of the teacher is
read. What is written is loaded strictly by the source's own class, with the same outputs (float64, 1e-9): tested with
transformers through `save_pretrained` and `from_pretrained`, torchvision, and timm, whose readers of `.npz` and of the
authors' files are the oracle of these.

Files and modules of Hugging Face's have different names; both are read, those of files written. Weights alone do not
tell activations and epsilons: `SOURCES[name].configuration` gives all arguments of `create_model`, of `config.json` or,
where shapes tell them, of the arrays (`vit_flax.weights.sources.SOURCES`).

"""
NOT_LOADED = {
    'the head of `Dinov2ForImageClassification`': (
        'it reads the class token and the mean of the patches side by side; the network loads with `num_classes=0`'
    ),
    '`CLIPForImageClassification`': 'it pools the patches without the last norm, whose weights it has all the same',
    "OpenAI's `.pt` files of CLIP": 'TorchScript archives, which are programs: save `model.state_dict()`',
    'the decoders of `ViTForMaskedImageModeling` and `DeiTForMaskedImageModeling`': (
        'no objective here computes the same; they are left out, and said'
    ),
    "MAE's fixed decoder positions into `decoder_positions='sincos'`": (
        "they have other frequencies than SimpleViT's, which ours are: they load into `decoder_positions='learned'`"
    ),
    'MAE whose decoder is as wide as its encoder': 'ours has no linear map between them then',
    "a head's bias into CLIP's projection": 'it has none: zero, or an error',
    'SigLIP 2 of NaFlex': 'its patches are a linear map, its positions one table resized for each image',
    'own files of RADIO': "their networks load in timm's conversions, `source='timm'`",
    'writing BEiT-3': 'its files hold an expert of texts beside that of images',
}
# Published networks of the same papers that are not those of vit-pytorch.
DIFFERENT = {
    'twins_svt': (
        "timm's Twins-SVT",
        'its convolution of positions follows the first block of a stage, its last stage has local attention too, and '
        'keys and values are normed where they are reduced; biases on queries, keys and values',
    ),
    'nest': (
        "timm's NesT",
        'positions for each block of patches (`paper_positions=True`), padding on one side of the pooling, and the '
        'heads in another order',
    ),
    'max_vit': (
        "timm's MaxViT",
        'norms before each convolution with a shortcut that is pooled, biases, another squeeze and excitation, and a '
        'tanh before the head',
    ),
    'cross_vit': (
        "timm's CrossViT",
        'projections between the branches are a norm, GELU and a linear map; no norm at the end of a branch; the '
        "mean, not the sum, of both heads; a branch's images have another size",
    ),
    'cvt': (
        "Hugging Face's CvT",
        'keys and values have convolutions of their own; a class token in the last stage; biases',
    ),
    'simple_vit': (
        "big_vision's SimpleViT",
        'no norms around the patch projection, biases on all projections, GELU in its tanh form',
    ),
    'na_vit': (
        "timm's NaFlexViT",
        'no norms of queries and keys, biases, one table of positions that is resized for each image, and no query '
        'that pools',
    ),
    'vivit': ("Hugging Face's ViViT", 'attention over space and time together'),
    'mobile_vit': (
        "timm's MobileViT",
        'biases, a norm behind the blocks, heads of a quarter of the width; not built yet',
    ),
    't2t': (
        "the authors' T2T-ViT_t",
        'the first transformers work at a width of 64 and skip from the values; not built yet',
    ),
}
FOLDED = """
A position of the class token that a network of ours does not have (`no_embed_class=True`) is added to the token, as
timm does: what is then written has the sum as its token, and a position of zero. All else comes back bit for bit.
"""


def resampling() -> str:
    """How each source moves positions to another grid."""
    lines = ['  | source | resampling |', '  |---|---|']
    for source in SOURCES.values():
        how = source.resampling
        words = [how.mode, 'with antialiasing' if how.antialias else 'without antialiasing']
        words += ['corners aligned'] * how.align_corners
        words += [f'{how.offsets} offsets'] * (how.offsets != 'aligned')
        words += [f'by a factor with {how.offset} added to the length'] * bool(how.offset)
        lines.append(f'  | `{source.name}` | {", ".join(words)} |')
    return '\n'.join(lines) + '\n'


def weights() -> str:
    """The page of the sources of weights."""
    lines = ['| source | whose | network there | class here | with | directions |', '|---|---|---|---|---|---|']
    for source in SOURCES.values():
        if isinstance(source, OwnSource):
            own = 'models that derive from it' if source.name == OWN[0] else "timm's networks"
            lines.append(f'| `{source.name}` | {source.title} | all | {own} | | read, written |')
            continue
        for family in source.families:
            fields = getattr(getattr(vit_flax, family.model, None), '__dataclass_fields__', {})
            defaults = {name: one.default for name, one in fields.items()}
            needs = [
                f'`{name}` ' + ('given' if allowed is GIVEN else ' or '.join(f'`{value!r}`' for value in allowed))
                for name, allowed in family.requires.items()
                if defaults.get(name) not in allowed
            ]
            directions = 'read, written' if family.is_written else 'read'
            titles = ', '.join((family.title, *family.also))
            cells = f'`{source.name}`', source.title, titles, f'`{family.model}`', ', '.join(needs), directions
            lines.append(f'| {" | ".join(cells)} |')
    lines += ['', '## What does not load, and why', '', '| what | why |', '|---|---|']
    lines += [f'| {what} | {why} |' for what, why in NOT_LOADED.items()]
    lines += [
        *FOLDED.splitlines(),
        '',
        '## Networks of the same papers that differ',
        '',
        '| here | published | what differs |',
        '|---|---|---|',
    ]
    lines += [f'| `{stem}` | {whose} | {what} |' for stem, (whose, what) in DIFFERENT.items()]
    return WEIGHTS.replace('<!-- resampling -->\n', resampling()) + '\n'.join(lines) + '\n'


def main() -> None:
    pages = sys.argv[1:] or ['models', 'objectives', 'speed', 'quirks', 'weights']
    if 'models' in pages:
        write_models()
    for name, page in (('objectives', objectives), ('speed', speed), ('quirks', quirks), ('weights', weights)):
        if name in pages:
            (ROOT / 'docs' / f'{name}.md').write_text(page())


if __name__ == '__main__':
    main()
