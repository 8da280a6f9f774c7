"""The command line as a stranger meets it: help, overrides, and mistakes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from train import cli, commands, recipes
from train.__main__ import MALLOC
from train.cli import main
from train.config import Config, check, differences, to_json
from train.conftest import ROOT, wait_for
from train.errors import UserError


def parse(recipe, args) -> Config:
    return cli.parse(recipe, args)[0]


def refused(args, capsys):
    """The message of a command that must end with exit code 2, without a traceback."""
    code: object
    try:
        code = main(['digits', *args])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2 and 'Traceback' not in out + err
    return ' '.join((out + err).replace('│', ' ').split())


def title(name):
    return str(recipes.find(name).__doc__).splitlines()[0]


def test_help_lists_recipes_and_commands(capsys):
    assert main(['--help']) == 0
    out = capsys.readouterr().out
    for name in recipes.names():
        assert f'\n  {name} ' in out and title(name) in out
    for name in commands.names():
        assert re.search(rf'^  {name} +{re.escape(str(commands.find(name).__doc__).splitlines()[0])}$', out, re.M)
    assert {'eval', 'predict', 'features', 'plan', 'plots', 'recipes'} == set(commands.names())
    assert main([]) == 2


@pytest.mark.parametrize('name', recipes.names())
def test_help_of_a_recipe_explains_every_key(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, '--help'])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert title(name) in out
    entries = re.split(r'^\W* --(?=\w)', out, flags=re.MULTILINE)[1:]
    assert len(entries) > 30
    for entry in entries:
        described = re.sub(r'[^\w.]+', ' ', entry.split('(default:')[0]).split()
        assert len(described) >= 4, f'--{entry} is not explained'


@pytest.mark.parametrize('name', commands.names())
def test_help_of_a_command_explains_every_argument(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, '--help'])
    out = capsys.readouterr().out
    assert end.value.code == 0 and str(commands.find(name).__doc__).splitlines()[0] in out
    for entry in re.split(r'^\W* (?:--(?=\w)|(?=[A-Z]{3}))', out, flags=re.MULTILINE)[1:]:
        described = re.sub(r'[^\w.]+', ' ', re.split(r'\((?:default:|required)', entry)[0]).split()
        assert len(described) >= 4, f'{entry} is not explained'


def test_recipes_are_a_table_with_what_to_expect(capsys):
    assert main(['recipes']) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(recipes.names()) < set(rows)
    assert title('digits') in rows['digits'] and '360 held-out' in rows['digits']
    assert rows['digits'].split()[-1] != 'vit' and ' vit ' in rows['digits'] and ' digits ' in rows['digits']


def test_a_module_run_from_another_process_says_the_same():
    done = subprocess.run(
        [sys.executable, '-m', 'train', 'digitz'], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == "error: no recipe or command is called 'digitz': did you mean 'digits'?\n"


@pytest.mark.skipif(sys.platform != 'linux', reason='a setting of glibc')
@pytest.mark.parametrize('given', [None, 'glibc.malloc.check=0'])
def test_a_run_uses_large_pages_unless_the_user_has_settings_of_their_own(start, given, tmp_path, monkeypatch):
    name, setting = MALLOC
    monkeypatch.delenv(name, raising=False)
    environment = {name: given} if given else {}
    process = start('--out', str(tmp_path / 'run'), '--steps=100000', **environment)
    wait_for((tmp_path / 'run' / 'metrics.jsonl').exists, process)
    seen = Path(f'/proc/{process.pid}/environ').read_text().split('\0')
    process.kill()
    process.communicate()
    assert f'{name}={given or setting}' in seen


@pytest.mark.parametrize(
    'args, words',
    [
        (['--optim.learning-rat', '1'], ['--optim.learning-rate']),
        (['--model.dept', '2'], ['--model.depth']),
        (['--stepz', '2'], ['--steps']),
        (['--steps', 'many'], ['--steps', 'many']),
        (['--model.dtype', 'float8'], ['bfloat16']),
        (['--model.name', 'vitt'], ["model.name='vitt'", "did you mean 'vit'?"]),
        (['--steps', '0'], ['steps=0 must be at least 1']),
        (['--seed', '-1'], ['seed=-1 must be at least 0']),
        (['--optim.ema', '1'], ['optim.ema=1.0']),
        (['--optim.learning-rate', 'nan'], ['optim.learning_rate=nan']),
        (['--objective.label-smoothing', '2'], ['objective.label_smoothing=2.0']),
        (['--augment.image-size', '-4'], ['augment.image_size=-4']),
        (['--augment.rotate', '-3'], ['augment.rotate=-3.0']),
        (['--model.patch-size', '5'], ['image_size', 'patch_size=(5, 5)']),
        (['--model.num-classes', '4'], ['model.num_classes=4', '10 classes']),
        (['--model.pool', 'max'], ["pool='max'", "'cls', 'mean'"]),
        (['--optim.groups', '.*/kernle', 'decay'], ["optim.groups: '.*/kernle' matches no parameter"]),
        (['--optim.groups', '(', 'plain'], ["optim.groups: '('", 'not a regular expression']),
        (['--init', 'runs/none'], ['runs/none: there is no such file', 'name a run']),
        (['--batch-size', '12'], ['batch_size=12', 'multiple of 8']),
        (
            ['--mesh.distributed'],
            ['mesh.distributed: ', 'give --mesh.coordinator and --mesh.processes'],
        ),
        (['--mesh.processes', '2'], ["mesh.processes='2'", 'add --mesh.distributed']),
        (['--mesh.distributed', '--mesh.coordinator', 'host'], ["mesh.coordinator='host'", 'HOST:PORT']),
        (['--mesh.distributed', '--mesh.coordinator', 'host:0'], ["mesh.coordinator='host:0'", '1 to 65535']),
        (['--mesh.distributed', '--mesh.coordinator', '::1:80'], ["mesh.coordinator='::1:80'", 'HOST:PORT']),
        (['--mesh.distributed', '--mesh.processes', '0'], ['mesh.processes=0 must be at least 1']),
        (['--mesh.distributed', '--mesh.process', '-1'], ['mesh.process=-1 must be at least 0']),
        (
            ['--mesh.distributed', '--mesh.processes=2', '--mesh.process=2'],
            ['mesh.process=2', 'below mesh.'],
        ),
        (['--mesh.timeout', '0'], ['mesh.timeout=0.0 must be at least 0.1 seconds']),
        (['--mesh.heartbeat-timeout', '0'], ['mesh.heartbeat_timeout=0.0 must be at least 1 seconds']),
    ],
    ids=lambda value: value[0] if value[0].startswith('--') else '',
)
def test_a_mistake_is_one_clear_message(args, words, capsys, tmp_path):
    message = refused([*args, '--out', str(tmp_path / 'run')], capsys)
    for word in words:
        assert word in message
    assert not (tmp_path / 'run').exists()


def test_a_folder_of_somebody_else_is_not_touched(capsys, tmp_path):
    (tmp_path / 'thesis.tex').write_text('text')
    assert "holds 'thesis.tex': choose another --out" in refused(['--out', str(tmp_path)], capsys)
    assert 'is a file, not a folder' in refused(['--out', str(tmp_path / 'thesis.tex')], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']
    (tmp_path / 'config.json').write_text('{"steps":')
    assert 'cannot be read' in refused(['--out', str(tmp_path)], capsys)


def test_overrides_are_typed_and_land_in_the_config():
    config = parse('digits', ['--optim.learning-rate', '3e-4', '--model.depth=2', '--seed', '1', '--no-plots'])
    assert config.optim.learning_rate == 3e-4 and config.seed == 1 and config.plots is False
    assert config.model.args['depth'] == 2 and config.model.args['dim'] == 64
    assert parse('digits', ['--model.patch-size', '4', '2']).model.args['patch_size'] == (4, 2)
    assert type(config) is type(recipes.find('digits').CONFIG)
    check(config)
    assert json.loads(json.dumps(to_json(config))) == to_json(config)


def test_the_same_command_finds_the_same_folder():
    assert parse('digits', []).out == parse('digits', ['--seed=0']).out == 'runs/digits'
    seeded = parse('digits', ['--seed', '1', '--optim.learning-rate=1e-3']).out
    assert seeded == parse('digits', ['--optim.learning-rate=0.001', '--seed=1', '--loader.threads=2']).out
    assert seeded == 'runs/digits-optim.learning_rate=0.001-seed=1'
    parts = ('to_qkv', 'to_out', 'expand', 'contract', 'mlp_head')
    groups = ['--optim.groups', *(word for part in parts for word in (f'.*/{part}/kernel', 'decay')), '.*', 'plain']
    assert len(parse('digits', groups).out) < 120
    assert parse('digits', ['--out', 'elsewhere']).out == 'elsewhere'


def test_another_model_keeps_what_it_knows():
    config = parse('digits', ['--model.name', 'simple_vit', '--model.dim=32'])
    assert config.model.args['dim'] == 32 and config.model.args['depth'] == 4
    assert 'pool' not in config.model.args
    large = parse('digits', ['--model.name=vit_pytorch_small_patch16_224'])
    assert large.model.args['mlp_dim'] == 128, 'what the recipe sets wins over the preset'


def test_differences_name_the_keys():
    old, new = (to_json(parse('digits', args)) for args in (['--seed=1', '--mesh.fsdp=2'], ['--model.depth=2']))
    assert differences(old, new) == {'seed': (1, 0), 'model.args.depth': (4, 2)}


def test_a_recipe_without_an_argument_of_its_model_is_told_so():
    from train.config import Model
    from train.model import build

    digits = recipes.find('digits').CONFIG
    with pytest.raises(UserError, match=r"model 'vit' has no argument 'deph': did you mean 'depth'\?"):
        build(Model('vit', {'deph': 3}), digits.augment.shape(digits.data), len(digits.data.classes))
