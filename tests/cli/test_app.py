"""The command line itself: help without MindSpore, exit codes, messages, --debug."""

import subprocess
import sys
import time

import pytest

COMMANDS = ["train", "eval", "merge", "predict", "inspect", "recipes", "ranktable", "job"]


def petrun(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "petrun", *arguments], capture_output=True, text=True, timeout=120, **more
    )


def test_version():
    from petrun import __version__

    done = petrun("--version")
    assert done.returncode == 0 and done.stdout.strip() == f"petrun {__version__}"


def test_help_lists_every_command():
    done = petrun("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_no_mindspore(command):
    code = (
        "import sys\nfrom petrun.cli.app import app\n"
        f"try:\n    app(args=['{command}', '--help'], prog_name='petrun')\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'mindspore', 'numpy', 'yaml'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Options" in done.stdout and len(done.stdout) > 200


def test_train_help_names_every_flag():
    text = petrun("train", "--help", env={**__import__("os").environ, "COLUMNS": "200"}).stdout
    for flag in (
        "--algo --rank --alpha --dropout --target --exclude --base --model --data --eval-data --task --out --epochs --steps --batch-size "
        "--accumulate --seq-len --lr --schedule --warmup --weight-decay --clip --no-shuffle --seed --init-delta --device --set --dry-run "
        "--eval-split --template --pack --format"
    ).split():
        assert flag in text, flag


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--ranks", "8"], 2, "--rank"),
        (["train", "--rank", "eight"], 2, "--rank"),
        (["trian"], 2, "train"),
        (["train", "--algo", "loar"], 2, "Did you mean lora"),
        (["merge"], 2, "--delta is missing"),
        (["recipes", "show", "no/such"], 2, "no recipe no/such"),
    ],
)
def test_mistakes_end_with_a_message_and_a_code(arguments, code, words):
    done = petrun(*arguments)
    assert done.returncode == code
    assert words in done.stderr and "Traceback" not in done.stderr


def test_debug_shows_the_traceback_wherever_it_stands():
    for arguments in (["--debug", "merge"], ["merge", "--debug"]):
        done = petrun(*arguments)
        assert "Traceback" in done.stderr and "--delta is missing" in done.stderr


def test_help_is_quick():
    """No timing claim, only that nothing heavy crept in: the median of three starts stays far below MindSpore's import."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        petrun("--help")
        seconds.append(time.perf_counter() - begin)
    assert sorted(seconds)[1] < 2.0
