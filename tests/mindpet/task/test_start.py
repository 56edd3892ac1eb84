"""`petrun mindpet`, the program `mindpet` and the SDK, with boot scripts as MindPet's users write them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from petrun.cli import mindpet as mindpet_cli
from petrun.mindpet import mindpet_sdk
from petrun.mindpet.task import start as start_module
from tests.conftest import ROOT

BOOT = """
import argparse, json, os, sys
parser = argparse.ArgumentParser()
for name in ("data_path", "output_path", "pretrained_model_path", "ckpt_path", "advanced_config", "lr", "fail"):
    parser.add_argument("--" + name)
args = parser.parse_args()
print("got", json.dumps(vars(args)))
print("to stderr", file=sys.stderr)
if args.fail:
    sys.exit(int(args.fail))
for name in ("eval_result.json", "infer_result.json"):
    with open(os.path.join(args.output_path, name), "w") as file:
        json.dump({"accuracy": 0.5, "of": name}, file)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data, model, out and boot.py, which is the current folder, and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("SERVER_ID", "DEVICE_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("home", "data", "model", "out", "ckpt"):
        (tmp_path / name).mkdir(mode=0o750)
    script(tmp_path, "boot.py", BOOT)
    return tmp_path


def script(folder, name, text):
    (folder / name).write_text(text)
    (folder / name).chmod(0o640)


FINETUNE = "mindpet finetune --data_path data --output_path out --boot_file_path boot.py"
EVALUATE = "mindpet evaluate -q -dp data -op out -bp boot.py -cp ckpt"


def got(text):
    """The arguments that the boot script printed."""
    return json.loads(re.search(r"\[Model\]: got (.*)", text)[1])


def test_finetune_hands_on_paths_params_and_the_freeze_file(place, petrun):
    (place / "params.yaml").write_text("params:\n  lr: 1e-4\nfreeze:\n  include: ['*']\n")
    done = petrun(f"{FINETUNE} --pretrained_model_path model --model_config_path params.yaml --timeout 1d2h")
    assert done.code == 0, done.err
    seen = got(done.out)
    assert seen["data_path"] == str(place / "data") and seen["pretrained_model_path"] == str(place / "model")
    assert seen["lr"] == "1e-4" and seen["advanced_config"] == str(place / "params.yaml")
    folder = Path(seen["output_path"])
    assert folder.parent == place / "out" and re.fullmatch("MINDPET_[0-9A-F]{32}", folder.name)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert re.search(r"^\[INFO\] \S+ \S+ \[\d+\] \[CLI\] : Finetune successfully\.$", done.out, re.MULTILINE)


def test_the_log_files_are_mindpets(place, petrun, monkeypatch):
    monkeypatch.setenv("DEVICE_ID", "11")
    assert petrun(FINETUNE).code == 0
    folder = place / "home/.cache/Huawei/mxTuningKit/log/node_0/device_3"
    service, operation = ((folder / name).read_text() for name in ("service.log", "operation.log"))
    assert re.search(r"^\S+ \S+ \[\d+\] \[Model\]: to stderr$", service, re.MULTILINE)
    assert "Start finetune." in operation and "[Model]" not in operation
    assert (folder / "service.log").stat().st_mode & 0o777 == 0o640
    monkeypatch.setenv("HOME", "/proc/no")
    done = petrun(FINETUNE)
    assert done.code == 0 and "no log files: /proc/no" in done.out


@pytest.mark.parametrize(("task", "file"), [("evaluate", "eval_result.json"), ("infer", "infer_result.json")])
def test_a_result_is_printed(place, petrun, task, file):
    done = petrun(EVALUATE.replace("evaluate", task))
    assert done.code == 0 and got(done.out)["ckpt_path"] == str(place / "ckpt")
    assert done.out.splitlines()[-1] == f'{file}: {{"accuracy": 0.5, "of": "{file}"}}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pass", "wrote no eval_result.json"),
        ("import sys; open(sys.argv[2] + '/eval_result.json', 'w').write('{')", "is not JSON"),
        ("import sys; open(sys.argv[2] + '/eval_result.json', 'w').write('{}')", "is empty"),
    ],
)
def test_a_result_that_is_missing_is_an_error(place, petrun, text, said):
    script(place, "boot.py", text)
    done = petrun(EVALUATE)
    assert done.code == 1 and said in done.err and "successfully" not in done.out
    answer = mindpet_sdk.evaluate("data", "ckpt", "out", "boot.py")
    assert answer["status"] == -1 and answer["task_result"] == "" and said in answer["error_message"]


def test_failures_have_exit_code_1_and_name_the_cause(place, petrun, monkeypatch):
    (place / "params.yaml").write_text("params: {fail: 3}")
    done = petrun(f"{FINETUNE} -mc params.yaml")
    assert done.code == 1 and "boot.py failed with exit code 3" in done.err and "to stderr" in done.out
    log = (place / "home/.cache/Huawei/mxTuningKit/log/node_0/device_0/service.log").read_text()
    assert "Finetune failed: " in log
    done = petrun("mindpet finetune -dp data")
    assert done.code == 1 and "finetune needs --output_path, --boot_file_path" in done.err
    monkeypatch.setattr(start_module, "seconds_of", lambda text: 1)
    script(place, "boot.py", "import time; print('begun'); time.sleep(60)")
    done = petrun(f"{FINETUNE} -t 1h")
    assert done.code == 1 and "ran longer than --timeout" in done.err and "begun" in done.out


def test_the_program_mindpet_ends_as_mindpet_does(place, monkeypatch, capfd):
    for words, code in ((FINETUNE.split()[1:], 0), (["finetune", "--no_such_option"], 1), (["finetune"], 1)):
        monkeypatch.setattr(sys, "argv", ["mindpet", *words])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            mindpet_cli.main()
            ended = 0
        except SystemExit as end:
            ended = end.code or 0
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(number, handler)
        assert ended == code, capfd.readouterr().err


def test_risks_are_asked_at_a_terminal_and_told_elsewhere(place, petrun, monkeypatch):
    (place / "data").chmod(0o777)
    done = petrun(f"{FINETUNE} --quiet")
    assert done.code == 0 and "[WARNING]" in done.out and f"other users can change {place / 'data'}" in done.out
    for answer, code in (("n\n", 1), ("y\n", 0)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        done = petrun(FINETUNE)
        assert done.code == code and "Continue? (y/n)" in done.out
    (place / "boot.py").chmod(0o666)
    done = petrun(f"{FINETUNE} --quiet")
    assert done.code == 1 and "chmod go-w" in done.err and "got" not in done.out


class Terminal:
    def __init__(self, answer):
        self.answer = answer

    def isatty(self):
        return True

    def readline(self):
        return self.answer

    def fileno(self):
        raise OSError


def test_the_sdk_answers_as_mindpets(place, capfd):
    assert mindpet_sdk.finetune("data", "out", "boot.py", None, timeout=None) is True
    assert "[SDK] : Finetune successfully." in capfd.readouterr().out
    answer = mindpet_sdk.infer(data_path="data", ckpt_path=place / "ckpt", output_path="out", boot_file_path="boot.py")
    assert answer == {"status": 0, "task_result": {"accuracy": 0.5, "of": "infer_result.json"}}


@pytest.mark.parametrize(
    ("args", "words", "said"),
    [
        (("data", "out"), {}, "finetune needs --boot_file_path"),
        (("data", "out", "boot.py"), {"quiet": True}, "quiet belongs to the command line"),
        (("data", "out", "boot.py"), {"data_path": "data"}, "data_path is given twice"),
        (("data", "out", "boot.py"), {"time_out": "1h"}, "Did you mean timeout"),
        (("data", "out", "boot.py", None, None, "1h", "x"), {}, "at most 6 arguments"),
        (("nowhere", "out", "boot.py"), {}, "does not exist"),
    ],
)
def test_a_call_of_the_sdk_that_cannot_be_is_told_and_answered(place, capfd, args, words, said):
    assert mindpet_sdk.finetune(*args, **words) is False
    assert said in capfd.readouterr().out
    assert mindpet_sdk.evaluate() == "" == mindpet_sdk.infer()


def test_a_signal_ends_the_script_too(place):
    script(place, "boot.py", "import os, time\nprint(os.getpid())\ntime.sleep(60)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "petrun", *FINETUNE.split()]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        number = next(found[1] for line in run.stdout if (found := re.search(r"\[Model\]: (\d+)$", line.rstrip())))
        run.terminate()
        assert run.wait(30) == 143
    for _ in range(100):
        if not Path(f"/proc/{number}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{number}").exists()


TUNE = """
import argparse, json, os, sys
import mindspore as ms
import numpy as np
from mindspore import Model, nn, ops
import mindspore.dataset as ds
from petrun.mindpet.delta import LoRADense
from petrun.mindpet.graph import TrainableParamsCheckPoint, freeze_from_config

parser = argparse.ArgumentParser()
parser.add_argument("--data_path", required=True)
parser.add_argument("--output_path", required=True)
parser.add_argument("--advanced_config")
parser.add_argument("--ckpt_path")
parser.add_argument("--learning_rate", type=float)
parser.add_argument("--epochs", type=int)
args = parser.parse_args()
ms.set_context(mode=ms.PYNATIVE_MODE)
ms.set_seed(1)
rows = np.load(os.path.join(args.data_path, "rows.npz"))
net = nn.SequentialCell(LoRADense(4, 8, 2, 4), nn.ReLU(), nn.Dense(8, 2))
net.update_parameters_name("", True)
if args.ckpt_path:
    ms.load_param_into_net(net, ms.load_checkpoint(os.path.join(args.ckpt_path, "DELTA_CKP-3_4.ckpt")))
    right = (net(ms.Tensor(rows["x"])).asnumpy().argmax(-1) == rows["y"]).mean()
    with open(os.path.join(args.output_path, "eval_result.json"), "w") as file:
        json.dump({"accuracy": float(right)}, file)
    sys.exit()
freeze_from_config(net, args.advanced_config)
data = ds.NumpySlicesDataset((rows["x"], rows["y"]), shuffle=False).batch(16)
loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
model = Model(net, loss, nn.Adam(net.trainable_params(), args.learning_rate))
model.train(args.epochs, data, callbacks=[TrainableParamsCheckPoint(args.output_path)], dataset_sink_mode=False)
print("trained", [p.name for p in net.trainable_params()])
"""


def test_a_boot_script_of_mindpet_tunes_and_evaluates(place, petrun, monkeypatch):
    """Given a script with MindPet's imports, one word changed; then params, freeze settings, checkpoint and score arrive."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    x = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    np.savez(place / "data" / "rows.npz", x=x, y=(x[:, 0] > 0).astype(np.int32))
    script(place, "tune.py", TUNE)
    text = "params: {learning_rate: 0.05, epochs: 3}\nfreeze: {include: ['*'], exclude: ['*mindpet_delta*', '2.*']}\n"
    (place / "params.yaml").write_text(text)
    done = petrun("mindpet finetune -q -dp data -op out -bp tune.py -mc params.yaml")
    assert done.code == 0, done.out
    trained = done.out.partition("[Model]: trained ")[2]
    assert "mindpet_delta_lora_a" in trained and "2.weight" in trained and "'0.weight'" not in trained
    (folder,) = (place / "out").glob("MINDPET_*")
    assert (folder / "DELTA_CKP-3_4.ckpt").exists()
    done = petrun(f"mindpet evaluate -q -dp data -cp {folder} -op out -bp tune.py")
    assert done.code == 0, done.out
    assert json.loads(done.out.splitlines()[-1].partition(": ")[2])["accuracy"] > 0.8
