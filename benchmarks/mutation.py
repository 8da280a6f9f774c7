"""Plants classic mistakes one at a time and counts how many the tests of that part catch.

    python benchmarks/mutation.py                   500 mistakes, in docs/mutation.jsonl and docs/mutation.md
    python benchmarks/mutation.py --count 40 --seed 7 --part models
    python benchmarks/mutation.py --again           the survivors, after tests were strengthened
    python benchmarks/mutation.py --report          writes the page only

The mistakes follow from the seed: a run that was stopped continues, and one with a larger count adds to it. Each is
planted in a copy of the tree in a temporary folder, and only the tests of its part run, until the first fails. A child
process that has imported JAX and PyTorch already runs them, with a limit of time; one that is still running then has
been caught, too. A mistake that changes nothing is listed with the reason in `benchmarks/equivalent_mutants.toml`.
"""

import argparse
import ast
import builtins
import compileall
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from py_compile import PycInvalidationMode

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / 'docs' / 'mutation.jsonl', ROOT / 'docs' / 'mutation.md'
EQUIVALENT = ROOT / 'benchmarks' / 'equivalent_mutants.toml'

# Folders of each part, and its share of the mistakes. Rows of weight names stand in the files of the models.
PARTS = {
    'models': (('vit_flax/models', 'vit_flax/transformers'), 8),
    'blocks': (('vit_flax/blocks',), 4),
    'objectives': (('vit_flax/objectives',), 3),
    'trainer': (('train',), 4),
    'weights': (('vit_flax/weights', 'vit_flax/wrappers'), 1),
}
# Nothing is computed here.
LEFT_OUT = {'train/recipes', 'vit_flax/models/__init__.py'}
# Models that stand for all users of a block.
FEW = 3
# And for all whose weights are converted.
PLAIN_AND_CONVOLUTIONAL = 'vit', 'cvt'

EXCHANGED: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
PERMUTING = {'rearrange', 'transpose', 'moveaxis', 'swapaxes', 'repeat', 'reduce', 'einsum'}


@dataclass(frozen=True)
class Mistake:
    """One edit of one file.

    Attributes:
      part: one of `PARTS`.
      file: from the root.
      scope: qualified name of the class or function around it.
      kind: of mistake.
      start: offset of the text that is replaced, in characters.
      before: that text.
      after: what is planted.
      line: of the file, from 1.
    """

    part: str
    file: str
    scope: str
    kind: str
    start: int
    before: str
    after: str
    line: int

    @property
    def key(self) -> tuple[str, ...]:
        """What stays the same when other lines of the file change."""
        return self.file, self.scope, self.kind, self.before, self.after


@dataclass
class Planter(ast.NodeVisitor):
    """Collects the mistakes that can be planted in one file."""

    part: str
    file: str
    text: str
    found: list[Mistake] = field(default_factory=list)
    scope: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        lengths = [len(line) for line in self.text.splitlines(keepends=True)]
        self.lines = [sum(lengths[:index]) for index in range(len(lengths) + 1)]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Offsets of a node; columns of `ast` count bytes, which here are characters."""
        start = self.lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self.lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def plant(self, kind: str, node: ast.AST, after: str | ast.AST) -> None:
        start, end = self.span(node)
        new = after if isinstance(after, str) else f'({ast.unparse(after)})'
        scope, line = '.'.join(self.scope), node.lineno  # type: ignore[attr-defined]
        self.found.append(Mistake(self.part, self.file, scope, kind, start, self.text[start:end], new, line))

    def visit_Import(self, node: ast.AST) -> None:
        """Neither imports nor messages of errors are mistaken."""

    visit_ImportFrom = visit_Raise = visit_JoinedStr = visit_Assert = visit_Import

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.scope.append(node.name)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            self.default(default)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_Expr(self, node: ast.Expr) -> None:
        """Docstrings are none of ours; a call for its effect can be forgotten."""
        if isinstance(node.value, ast.Call):
            self.plant('removed call', node, 'pass')
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.default(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any('torch_' in ast.unparse(target) for target in node.targets):
            self.rows(node.value)
        elif not self.scope and not isinstance(node.value, ast.Constant):
            return  # tables and types at the head of a file
        self.generic_visit(node)

    def default(self, value: ast.AST | None) -> None:
        if isinstance(value, ast.Constant) and isinstance(value.value, bool | int | float):
            self.plant('wrong default', value, repr(other(value.value)))

    def rows(self, table: ast.AST) -> None:
        """The names of two neighbours exchanged."""
        if isinstance(table, ast.Dict):
            for one, two in zip(table.values, table.values[1:], strict=False):
                if ast.dump(one) != ast.dump(two):
                    (start, end), (begin, stop) = self.span(one), self.span(two)
                    swapped = self.text[begin:stop] + self.text[end:begin] + self.text[start:end]
                    both = ast.copy_location(ast.Constant(None), one)
                    both.end_lineno, both.end_col_offset = two.end_lineno, two.end_col_offset
                    self.plant('swapped weight rows', both, swapped)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        exchanged = EXCHANGED.get(type(node.op))
        if exchanged and not any(is_text(side) for side in (node.left, node.right)):
            self.plant('wrong operator', node, ast.BinOp(node.left, exchanged(), node.right))
        if isinstance(node.op, ast.Sub | ast.Div | ast.FloorDiv | ast.MatMult | ast.Mod | ast.Pow):
            self.plant('swapped operands', node, ast.BinOp(node.right, node.op, node.left))
        if isinstance(node.op, ast.Add) and isinstance(node.left, ast.Name) and isinstance(node.right, ast.Call):
            self.plant('dropped residual', node, node.right)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1 and type(node.ops[0]) in EXCHANGED:
            self.plant(
                'wrong comparison', node, ast.Compare(node.left, [EXCHANGED[type(node.ops[0])]()], node.comparators)
            )
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.plant('wrong operator', node, ast.BoolOp(EXCHANGED[type(node.op)](), node.values))
        self.generic_visit(node)

    def visit_If(self, node: ast.If | ast.IfExp | ast.While) -> None:
        self.plant('negated condition', node.test, ast.UnaryOp(ast.Not(), node.test))
        if isinstance(node, ast.If) and not node.orelse and all(isinstance(s, ast.Raise) for s in node.body):
            self.visit(node.test)
            return
        self.generic_visit(node)

    visit_IfExp = visit_While = visit_If

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant) and node.operand.value in (1, 2, 3):
            self.plant('wrong axis', node, f'(-{node.operand.value % 3 + 1})')
        elif isinstance(node.op, ast.USub | ast.Not):
            self.plant('wrong operator', node, node.operand)
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool | int | float):
            off = isinstance(node.value, int) and not isinstance(node.value, bool)
            self.plant('off by one' if off else 'wrong constant', node, repr(other(node.value)))

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        if name in PERMUTING:
            self.axes(node)
        if hasattr(builtins, name):
            # without `len` or `range` nothing runs at all: too easy; `strict` of `zip` guards, and computes nothing
            for child in (*node.args, *(word.value for word in node.keywords if word.arg != 'strict')):
                self.visit(child)
            return
        if name in ('transpose', 'moveaxis', 'swapaxes', 'rearrange') and isinstance(
            node.func, ast.Attribute | ast.Name
        ):
            what = node.args[0] if is_function(node.func) else node.func.value  # type: ignore[union-attr]
            self.plant('missing transpose', node, what)
        elif len(node.args) == 1 and not isinstance(node.args[0], ast.Starred) and name[:1].islower():
            self.plant('removed call', node, node.args[0])
        elif len(node.args) == 2 and not any(isinstance(arg, ast.Starred | ast.Constant) for arg in node.args):
            swapped = ast.Call(node.func, node.args[::-1], node.keywords)
            self.plant('swapped arguments', node, swapped)
        self.generic_visit(node)

    def axes(self, call: ast.Call) -> None:
        """The last two axes of the result exchanged."""
        for arg in call.args:
            if isinstance(arg, ast.Constant) and isinstance(arg.value, str) and '->' in arg.value:
                head, _, tail = arg.value.rpartition('->')
                names = re.findall(r'\([^)]*\)|\S+', tail)
                if len(names) > 1:
                    wrong = ' '.join([*names[:-2], names[-1], names[-2]])
                    self.plant('wrong axis', arg, repr(f'{head}-> {wrong}'))


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def is_function(func: ast.Attribute | ast.Name) -> bool:
    """Of a module, as `jnp.moveaxis`, rather than a method of the array."""
    return isinstance(func, ast.Name) or ast.unparse(func.value) in ('jnp', 'np', 'jax.numpy', 'lax', 'jax.lax', 'nn')


def other(value: bool | int | float) -> bool | int | float:
    """A wrong one."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 2 or 1.0


@cache
def mistakes(part: str, file: str) -> list[Mistake]:
    """All that can be planted in a file."""
    planter = Planter(part, file, (ROOT / file).read_text())
    planter.visit(ast.parse(planter.text))
    return planter.found


def files(part: str) -> list[str]:
    paths = [path for folder in PARTS[part][0] for path in sorted((ROOT / folder).rglob('*.py'))]
    names = [str(path.relative_to(ROOT)) for path in paths]
    return [
        name
        for name in names
        if not name.endswith('_test.py')
        and 'conftest' not in name
        and not any(name.startswith(folder) for folder in LEFT_OUT)
        and mistakes(part, name)
    ]


def drawn(count: int, seed: int, part: str | None) -> Iterator[Mistake]:
    """The mistakes of a seed: a part, a file of it, a kind that can be planted there, and a place, each at random."""
    dice = random.Random(seed)
    names = [part] if part else [*PARTS]
    shares = [PARTS[name][1] for name in names]
    seen: set[Mistake] = set()
    while len(seen) < count:
        (chosen,) = dice.choices(names, shares)
        candidates = mistakes(chosen, dice.choice(files(chosen)))
        kind = dice.choice(sorted({mistake.kind for mistake in candidates}))
        mistake = dice.choice([candidate for candidate in candidates if candidate.kind == kind])
        if mistake not in seen:
            seen.add(mistake)
            yield mistake


# ---------------------------------------------------------------------- which tests


@cache
def imports(file: str) -> frozenset[str]:
    """The modules of the tree that a file imports, as files."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            path = name.replace('.', '/')
            found |= {end for end in (f'{path}.py', f'{path}/__init__.py') if (ROOT / end).exists()}
    return frozenset(found)


def users(file: str, folder: str) -> list[str]:
    """Files of a folder that need this one, directly or through others of the product."""
    reached, todo = {file}, [file]
    product = [str(path.relative_to(ROOT)) for top in ('vit_flax', 'train') for path in (ROOT / top).rglob('*.py')]
    product = [name for name in product if not name.endswith('__init__.py')]
    while todo:
        now = todo.pop()
        for name in product:
            if name not in reached and now in imports(name):
                reached.add(name)
                todo.append(name)
    return sorted(name for name in reached if name.startswith(folder))


def tests(mistake: Mistake) -> list[list[str]]:
    """Arguments of pytest, of one run after the other: what is quick and likely to fail comes first."""
    file, path = mistake.file, Path(mistake.file)
    own = [str(path.with_name(f'{path.stem}_test.py')), f'parity_tests/test_{path.stem}.py']
    own = [name for name in own if (ROOT / name).exists()]
    if mistake.part == 'trainer':
        reached = [name for name in users(file, 'train/') if name.endswith('_test.py')]
        near = [name for name in reached if file in imports(name)]
        beside = [str(name.relative_to(ROOT)) for name in sorted((ROOT / path.parent).glob('*_test.py'))]
        beside = beside if path.parent != Path('train') else []
        first = list(dict.fromkeys([*own, *near, *beside]))
        return [run for run in (first, [*reached[:FEW], 'train/loop_test.py']) if run]
    if mistake.part == 'weights':
        own = [*own, 'vit_flax/weights']
        stems = list(PLAIN_AND_CONVOLUTIONAL)
    else:
        stems = [path.stem] if path.stem in all_stems() else some_users(file)
    every = sorted(str(name.relative_to(ROOT)) for name in (ROOT / 'parity_tests').glob('test_*.py'))
    of_models = list(dict.fromkeys(['parity_tests/test_parity.py', *every, f'--stem={",".join(stems)}']))
    runs = [own, [*mentioning(file), '--stem=none'], of_models]
    return [run for run in runs if any(word.endswith('.py') for word in run)]


@cache
def mentioning(file: str) -> list[str]:
    """Tests that call what a file defines by its name."""
    names = [node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    found = [*sorted((ROOT / 'parity_tests').glob('test_*.py')), *sorted((ROOT / 'vit_flax').rglob('*_test.py'))]
    words = re.compile(rf'\b({"|".join(names)})\b')
    return [str(path.relative_to(ROOT)) for path in found if names and words.search(path.read_text())]


@cache
def all_stems() -> set[str]:
    return {
        path.stem for folder in ('cases', 'objectives') for path in (ROOT / 'parity_tests' / folder).glob('[a-z]*.py')
    }


def some_users(file: str) -> list[str]:
    """A few of the models and objectives that use a file, those first that import it themselves."""
    reached = [name for name in users(file, 'vit_flax/') if Path(name).stem in all_stems()]
    random.Random(file).shuffle(reached)
    reached.sort(key=lambda name: file not in imports(name))
    return [Path(name).stem for name in reached[:FEW]]


# ---------------------------------------------------------------------- running them


def copied() -> Path:
    """The tree in a temporary folder, its bytecode checked by content: two versions of a file may be of one second."""
    folder = Path(tempfile.mkdtemp(prefix='mutation_'))
    hidden = shutil.ignore_patterns('.git', '.venv', '__pycache__', '.*_cache', 'runs')
    shutil.copytree(ROOT, folder, ignore=hidden, dirs_exist_ok=True)
    compileall.compile_dir(folder, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return folder


def forked(folder: Path, arguments: list[str], limit: float) -> tuple[int | None, str]:
    """Exit code of pytest, None if it took longer than the limit, and the end of what it printed."""
    said = folder / 'said.txt'
    child = os.fork()
    if not child:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.chdir(folder)
        sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry or '.').resolve() not in OURS)]
        import pytest

        code = 3
        try:
            code = int(pytest.main(['-x', '-q', '-n', '0', '--durations=0', '--tb=line', *arguments]))
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), said.read_text(errors='replace')[-2000:]
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, ''


OURS = {ROOT, ROOT / 'benchmarks'}
# Failed, interrupted while collecting, or pytest itself: the mistake was seen. Others (5: no tests) are faults of ours.
CAUGHT, SURVIVED = (1, 2, 3), 0


def attempt(folder: Path, mistake: Mistake, limit: float) -> dict[str, object]:
    """Plants one mistake, runs the tests, and takes it back."""
    target = folder / mistake.file
    text = target.read_text()
    end = mistake.start + len(mistake.before)
    wrong = text[: mistake.start] + mistake.after + text[end:]
    began = time.monotonic()
    runs = tests(mistake)
    try:
        ast.parse(wrong)
        target.write_text(wrong)
        for arguments in runs:
            code, said = forked(folder, arguments, limit - (time.monotonic() - began))
            if code != SURVIVED:
                break
    finally:
        target.write_text(text)
    if code is not None and code > max(CAUGHT):
        raise RuntimeError(f'pytest {" ".join(arguments)} ended with {code}:\n{said}')
    result = 'time' if code is None else 'survived' if code == SURVIVED else 'caught'
    by = re.search(r'^(?:FAILED|ERROR) (\S+)', said, re.MULTILINE)
    return {
        **asdict(mistake),
        'result': result,
        'by': by[1] if by else '',
        'seconds': round(time.monotonic() - began),
        'content': hashlib.sha256(text.encode()).hexdigest()[:12],
    }


def recorded() -> dict[tuple[str, ...], dict]:
    """The newest result of each mistake."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(r['file'], r['scope'], r['kind'], r['before'], r['after']): r for r in rows}


def equivalent() -> dict[tuple[str, ...], str]:
    """Mistakes that change nothing, each with the reason."""
    rows = tomllib.loads(EQUIVALENT.read_text()).get('mutant', []) if EQUIVALENT.exists() else []
    return {(row['file'], row['scope'], row['before'], row['after']): row['reason'] for row in rows}


def reason(row: dict) -> str:
    return equivalent().get((row['file'], row['scope'], row['before'], row['after']), '')


def report() -> str:
    """The page of the results."""
    rows = [*recorded().values()]
    table = []
    for part in PARTS:
        of_part = [row for row in rows if row['part'] == part and not reason(row)]
        same = sum(row['part'] == part and bool(reason(row)) for row in rows)
        caught = sum(row['result'] != 'survived' for row in of_part)
        late = sum(row['result'] == 'time' for row in of_part)
        share = f'{100 * caught / len(of_part):.1f} %' if of_part else '-'
        table.append(f'| {part} | {len(of_part)} | {caught} | {late or "-"} | {share} | {same or "-"} |')
    survivors = [row for row in rows if row['result'] == 'survived' and not reason(row)]
    survivors.sort(key=lambda row: (row['file'], row['line']))
    listed = ''.join(
        f'- `{row["file"]}:{row["line"]}` {row["scope"]}, {row["kind"]}: `{short(row["before"])}` became '
        f'`{short(row["after"])}`\n'
        for row in survivors
    )
    return HEADER + '\n'.join(table) + '\n\n## Survivors\n\n' + (listed or 'None.\n')


def short(text: str) -> str:
    line = ' '.join(text.split())
    return line if len(line) < 90 else f'{line[:87]}...'


HEADER = """# Planted mistakes

How many mistakes of the classic kinds (swapped operands and arguments, wrong operators, constants, axes and defaults,
off by one, a missing transpose, a dropped residual, a negated condition, a removed call, swapped weight rows) the tests
of that part catch, planted one at a time by `python benchmarks/mutation.py`. A mistake with which the tests do not come
to an end counts as caught. Not counted are those that change no result, each with its reason in
`benchmarks/equivalent_mutants.toml`.

| part | planted | caught | of these by the time limit | share | equivalent |
|---|--:|--:|--:|--:|--:|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=500, help='of mistakes')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--part', choices=PARTS, help='only there')
    parser.add_argument('--limit', type=float, default=600, help='seconds for one mistake')
    parser.add_argument('--again', action='store_true', help='plant the recorded survivors once more')
    parser.add_argument('--report', action='store_true', help='write the page only')
    options = parser.parse_args()
    if not options.report:
        run(options)
    PAGE.write_text(report())


def run(options: argparse.Namespace) -> None:
    done = recorded()
    planned = list(drawn(options.count, options.seed, options.part))
    if options.again:
        kept = {key for key, row in done.items() if row['result'] == 'survived' and not reason(row)}
        every = [mistake for part in PARTS for file in files(part) for mistake in mistakes(part, file)]
        planned = list({mistake.key: mistake for mistake in every if mistake.key in kept}.values())
    else:
        planned = [mistake for mistake in planned if mistake.key not in done]
    # nothing of the tree: each child takes that from its copy
    for name in ('jax', 'flax.linen', 'torch', 'numpy', 'einops', 'optax', 'pytest'):
        importlib.import_module(name)
    # so that the copy goes when the program is ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = copied()
    try:
        for number, mistake in enumerate(planned, start=1):
            row = attempt(folder, mistake, options.limit)
            with RECORD.open('a') as file:
                file.write(json.dumps(row) + '\n')
            print(
                f'{number}/{len(planned)} {row["result"]} in {row["seconds"]} s: {mistake.file}:{mistake.line} '
                f'{mistake.kind}: {short(mistake.before)} -> {short(mistake.after)} {row["by"]}',
                flush=True,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
    main()
