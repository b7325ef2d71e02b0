"""Flags of all programs: help, mistakes of one line, aliases, all without TensorFlow."""

import importlib
import inspect
import re
import subprocess
import sys
import time

import pytest
from absl import flags

import tfcert
from tests import support
from tfcert import names
from tfcert.attacks import losses
from tfcert.bounds import methods
from tfcert.cli import choices, help_text, program, train_run, values
from tfcert.smoothing.noise import NOISES

PROGRAMS = ("attack", "certify", "certify_beam", "demo", "export", "report", "train", "verify")

# Starts a program in a new interpreter, and says which large packages were loaded.
_START = """
import sys, tfcert_programs
try:
    getattr(tfcert_programs, sys.argv[1])()
finally:
    large = {name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "numpy"}
    print("loaded:", sorted(large))
"""


def _start(name, *arguments, cwd=None):
    command = ["-c", f"import sys; sys.argv[0] = 'tfcert-{name}'\n" + _prepared(name)]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(support.ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def _prepared(name):
    return _START.replace("sys.argv[1]", repr(name))


@pytest.fixture(params=PROGRAMS)
def defined(request):
    """The names of a program's flags, which are defined for the time of the test."""
    before = set(flags.FLAGS)
    module = importlib.import_module(f"tfcert.cli.{request.param}")
    help_text.forget_sections()
    module._define_flags()
    own = [name for name in flags.FLAGS if name not in before]
    yield own
    for name in own:
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_loads_no_tensorflow(name):
    begin = time.perf_counter()
    done = _start(name, "--help")
    print(f"{name} --help: {time.perf_counter() - begin:.2f} s")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.endswith("loaded: []\n")
    required = done.stdout.partition("\nRequired:\n")[2].partition("\n\n")[0]
    assert ("  --out=" in required) == (name not in ("demo", "verify"))


MISTAKES = [
    ("train", ["--lr=0.1"], "There is no flag --lr. Did you mean --learning_rate?"),
    ("train", ["--eps=0.1"], "--out is missing: Folder for the model"),
    ("train", ["--out=x"], "--objective=ibp needs --eps, the radius to test at, such as"),
    ("train", ["--out=x", "--eps=0.1", "--objective=IPB"], "Did you mean ibp?"),
    ("train", ["--out=x", "--eps=0.1", "--model=dm_smal"], "Did you mean dm_small?"),
    ("train", ["--out=x", "--eps=0.1", "--dataset=minst"], "Did you mean mnist?"),
    ("train", ["--out=x", "--eps=0.1", "--dataset=x.npz"], "--dataset=x.npz: there is no such"),
    ("train", ["--out=x", "--eps=0.1", "--dataset=tfds:m"], "pip install tensorflow-datasets"),
    ("train", ["--out=x", "--eps=0.1", "--option=natural_wait=1"], "Did you mean natural_weight?"),
    ("train", ["--out=.", "--eps=0.1"], "--out=. is not empty"),
    ("train", ["--out=x", "--eps=8"], "Received: --eps=8. Did you mean --eps=8/255?"),
    ("train", ["--out=x", "--eps=0.1", "--verify=crwon"], "Did you mean crown?"),
    ("train", ["--out=x", "--eps=0.1", "--epochs=many"], "--epochs=many"),
    ("train", ["--out=x", "--eps=0.1", "more"], "Unexpected arguments: ['more']"),
    ("train", ["--flagfile=none.flags"], "none.flags"),
    ("attack", ["--model_path=no.keras", "--eps=0.1", "--out=x"], "--model_path=no.keras: There"),
    ("attack", ["--model_path=.", "--eps=0.1", "--out=x"], "--model_path=model.keras?"),
    ("certify", ["--model_path=model.keras", "--out=x"], "--method=auto needs --eps"),
    ("certify", ["--out=x", "--method=crwon"], "--method=crwon: must be one of auto"),
    ("certify", ["--model_path=no.keras", "--eps=9", "--out=x"], "Did you mean --eps=9/255?"),
    ("export", ["--model=model.keras", "--out=x"], "--model. Did you mean --model_path?"),
    ("export", ["--model_path=model.keras", "--out=."], "--method=crown-ibp needs --eps"),
    ("report", ["--out=x"], "Name at least one log file or run folder"),
    ("report", ["none.tsv", "--out=x"], "none.tsv: there is no such log or folder"),
    ("verify", ["net.onnx"], "Pass a network and a property, in this order"),
    ("verify", ["net.onnx", "property.vnnlib"], "net.onnx: There is no such file."),
    ("verify", ["net.onnx", "p.vnnlib", "--timelimit=9"], "Did you mean --time_limit?"),
    ("demo", ["--examples=900"], "--examples must be 1 to 360. Received: --examples=900."),
]


@pytest.mark.parametrize(("name", "arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line(name, arguments, message, tmp_path):
    if importlib.util.find_spec("tensorflow_datasets") and "tfds" in str(arguments):
        pytest.skip("tensorflow-datasets is installed")
    (tmp_path / "model.keras").touch()
    done = _start(name, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "loaded: []\n"
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr
    assert "`" not in done.stderr, "names of Python arguments"
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


# Words that a help cannot begin with, and words that point to another help.
_BEGINNINGS = re.compile(r"(?:Of|What|Then|Its|It|Which|How|Who|And|Also|As|Instead|That|This)\b")
_POINTERS = re.compile(r"\b(?:it|its|then|thereof|such a|the latter|the former)\b", re.IGNORECASE)


def test_every_help_can_be_read_alone(defined):
    for name in defined:
        text = help_text.own_help(name)
        assert re.match(r"[A-Z]\w*[ ',:]", text), f"--{name}: {text}"
        assert not _BEGINNINGS.match(text), f"--{name}: {text}"
        assert not _POINTERS.search(text), f"--{name}: {text}"
        assert text.endswith("."), f"--{name}: {text}"


def test_help_shows_every_flag_once(defined):
    page = help_text.page("Does something.", defined)
    shown = re.findall(r"^  --(?:\[no\])?(\w+)", page, re.MULTILINE)
    assert sorted(shown) == sorted(defined)
    required = [name for name in defined if help_text.is_required(name)]
    assert shown[: len(required)] == required
    assert max(map(len, page.splitlines())) <= 100


def test_lists_of_names_are_those_of_the_library():
    assert set(choices.OBJECTIVES) == set(train_run.OBJECTIVES)
    for name, kind in train_run.OBJECTIVES.items():
        known = set(inspect.signature(kind.__init__).parameters) - {"self", "region"}
        # The program trains classifiers: a property is an object, which no flag can hold.
        known -= {"property", "natural_loss", "property_scale"}
        assert set(choices.OBJECTIVES[name]) == known, f"{name}: say so in tfcert/cli/choices.py"
    assert choices.MODELS == tfcert.models.NAMES
    assert choices.DATASETS == tfcert.datasets.NAMES
    assert set(choices.METHODS) <= set(methods.known_names())
    assert set(choices.NOISES) == set(NOISES)
    assert set(choices.ATTACK_LOSSES) == set(losses.LOSSES)
    for name in choices.METHODS:
        assert methods.get(name)
    distances = ("linf_mlp_2x16", "linf_hybrid_3x16", "sort_mlp_2x16_keep85", "sort_hybrid_3x16")
    for name in ("mlp_2x16", *distances):
        choices.check_model(name)


@pytest.mark.parametrize(
    ("word", "known", "wanted"),
    [
        ("lr", ["learning_rate", "limit"], "learning_rate"),
        ("bs", ["batch_size", "block"], "batch_size"),
        ("epsilon", ["eps", "epochs"], "eps"),
        ("epoch", ["eps", "epochs"], "epochs"),
        ("output", ["out", "option"], "out"),
        ("model", ["model_path", "max"], "model_path"),
        ("crwon", ["crown", "crown-ibp"], "crown"),
        ("fashion-mnist", ["mnist", "fashion_mnist"], "fashion_mnist"),
        ("zzz", ["eps", "epochs"], None),
        ("", ["eps"], None),
    ],
)
def test_nearest_names(word, known, wanted):
    assert names.nearest(word, known) == wanted


@pytest.mark.parametrize(
    ("parser", "text", "value"),
    [
        (values.NameParser(["crown-ibp", "ibp"]), "CROWN_IBP", "crown-ibp"),
        (values.NameParser(["crop_flip"]), "crop-flip", "crop_flip"),
        (values.NameParser(["inf", "2"]), "linf", "inf"),
        (values._NormParser(), "Linf", "inf"),
        (values._NormParser(), "l2", "2"),
        (values._NormParser(), "1.5", "1.5"),
        (values._SizeParser(), "8/255", 8 / 255),
        (values._SizeParser(), "0.1", 0.1),
        (values._NamesParser(["auto", "crown-ibp"]), "auto,CROWN_IBP", ["auto", "crown-ibp"]),
    ],
)
def test_values_in_many_spellings(parser, text, value):
    assert parser.parse(text) == value


@pytest.mark.parametrize("text", ["-1", "1/0", "1/2/3", "nan", "inf", "a", ""])
def test_texts_that_are_no_sizes(text):
    with pytest.raises(ValueError, match="must be a number of at least 0, or a fraction"):
        values._SizeParser().parse(text)


@pytest.mark.parametrize("text", ["0.5", "l0", "two", "nan"])
def test_texts_that_are_no_norms(text):
    with pytest.raises(ValueError, match="must be inf, or a number from 1 on"):
        values._NormParser().parse(text)


def test_messages_name_flags():
    message = "`eps` must be small, `other` too. Received: eps=3."
    assert program.with_flags(message, ["eps"]) == (
        "--eps must be small, `other` too. Received: --eps=3."
    )


_INTERRUPTED = """
import sys, tfcert_programs
tfcert_programs._find_library()
from tfcert.cli import demo, program

def load():
    raise KeyboardInterrupt

program.load_library = load
sys.argv = ["tfcert-demo"]
demo.run()
"""


def test_ctrl_c_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED],
        cwd=tmp_path,
        env={"PYTHONPATH": str(support.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    said = "tfcert-demo: Stopped. Nothing was written. Start the same command again."
    assert done.stderr.strip() == said


_LOADED = """
import sys, tfcert_programs
tfcert_programs._find_library()
from tfcert.cli import program
from absl import flags
import tfcert
assert not hasattr(tfcert, "bound") and "keras" not in sys.modules
flags.FLAGS(["program"])
program.load_library()
import keras
assert set(tfcert.__all__) <= set(dir(tfcert))
assert keras.saving.get_registered_object("tfcert>LpBall") is tfcert.LpBall
print(tfcert.__name__, tfcert.cli.program is program)
"""


def test_the_library_is_loaded_as_a_whole_and_in_silence():
    done = subprocess.run(
        [sys.executable, "-c", _LOADED],
        env={"PYTHONPATH": str(support.ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "tfcert True\n", "")
