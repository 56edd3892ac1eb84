"""The library: how it is built, cached and described, its threads, and what happens where it cannot be had."""

import os
import re
import shutil
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from mindspore import Tensor

from petrun import kernels
from petrun.kernels import native
from tests.kernels.conftest import normal
from tests.kernels.direct import Library, examples

OPERATORS = examples()


@pytest.fixture
def library(fused):
    found = Library(native.library())
    yield found
    found.set_threads(0)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache and nothing known yet."""
    monkeypatch.setattr(native, "_state", native._State())
    native.use_cache(tmp_path / "cache")
    return tmp_path


def compiler_at(path, body):
    """A program that answers --version, and otherwise does `body` with $out, the file to write."""
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "pretender 1.0"; exit 0; fi\n'
        'while [ "$1" != -o ]; do shift; done\nout=$2\n' + body
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_every_operator_is_among_the_examples():
    declared = set()
    for source in native.sources():
        declared |= set(re.findall(r"^PETRUN_OPERATOR\((\w+),", source.read_text(encoding="utf-8"), re.M))
    # One copies, another gives no floats: tests/kernels/test_decode.py has both. tests/train/test_adamw.py has the third, which writes
    # into its inputs.
    assert declared == set(OPERATORS) | {"write_cache", "likeliest", "adamw"} and len(declared) == 44


@pytest.mark.parametrize("name", OPERATORS)
def test_the_same_bits_with_any_number_of_threads(name, library):
    inputs, shapes = OPERATORS[name]
    library.set_threads(1)
    assert library.threads() == 1
    code, expected = library.call(name, inputs, shapes)
    assert code == 0 and all(np.isfinite(a).all() for a in expected)
    for threads in (2, 3, 8):
        library.set_threads(threads)
        for _ in range(3):
            _, found = library.call(name, inputs, shapes)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_subnormal_numbers_are_zero_on_every_thread(library):
    """MindSpore's threads flush them and Python's do not: the thread that takes a piece must not show in the result."""
    small = np.full((64, 16384), 1e-39, np.float32)
    assert (small > 0).all()
    for threads in (1, 2):
        library.set_threads(threads)
        code, (found,) = library.call("tanh_grad", [np.zeros_like(small), small], [small.shape])
        assert code == 0 and not found.any()
    assert (small * np.float32(0.5) > 0).all(), "the caller's own arithmetic has changed"


def test_called_from_many_threads_at_once(library):
    """One caller has the workers, the others work alone; nobody's result or buffer is another's."""
    library.set_threads(3)
    names = ["gelu", "attention_grad", "layer_norm_weight_grad", "cross_entropy"] * 2
    expected = {name: library.call(name, *OPERATORS[name])[1] for name in names}
    wrong = []

    def work(name):
        for _ in range(30):
            code, found = library.call(name, *OPERATORS[name])
            if code or any(not np.array_equal(a, b) for a, b in zip(found, expected[name], strict=True)):
                wrong.append(name)

    workers = [threading.Thread(target=work, args=(name,)) for name in names]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_many_short_jobs(library):
    library.set_threads(4)
    x = normal(3, 16384)
    expected = library.call("gelu", [x], [x.shape])[1][0]
    for _ in range(3000):
        np.testing.assert_array_equal(library.call("gelu", [x], [x.shape])[1][0], expected)


def test_a_forked_child_has_threads_of_its_own(fused):
    """In a process without MindSpore, whose own threads do not survive a fork."""
    code = (
        "import os, sys\n"
        "from tests.kernels.direct import Library, examples\n"
        "library, (inputs, shapes) = Library(sys.argv[1]), examples()['layer_norm']\n"
        "library.set_threads(3)\n"
        "before = library.call('layer_norm', inputs, shapes)[1][0]\n"
        "child = os.fork()\n"
        "after = library.call('layer_norm', inputs, shapes)[1][0]\n"
        "same = (before == after).all() and library.threads() == 3\n"
        "if child == 0:\n"
        "    os._exit(0 if same else 1)\n"
        "assert same and os.waitpid(child, 0)[1] == 0\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run([sys.executable, "-c", code, str(native.library())], cwd=root, check=True, timeout=120)


def test_no_memory_on_any_thread_is_an_error(fused):
    """Scratch memory of 2^48 bytes is in no address space. In a process of its own: an exception on a worker would end it."""
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from tests.kernels.direct import Library, examples\n"
        "library = Library(sys.argv[1])\n"
        "library.set_threads(4)\n"
        "inputs, shapes = examples()['row_adapters']\n"
        "before = library.call('row_adapters', inputs, shapes)[1][0]\n"
        "def wide(*shape):\n"
        "    return np.broadcast_to(np.float32(0), shape)\n"
        "rank, rows = 2**46, 64\n"
        "huge = [wide(rows, 1, 1), wide(rows, 1, 1), wide(2, rank, 1), wide(2, 1, rank), np.ones(rows, np.int32)]\n"
        "for _ in range(20):\n"
        "    assert library.call('row_adapters', huge, [(rows, 1, 1)])[0] == 3\n"
        "code, (after,) = library.call('row_adapters', inputs, shapes)\n"
        "assert code == 0 and (before == after).all() and library.threads() == 4\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run([sys.executable, "-c", code, str(native.library())], cwd=root, check=True, timeout=120)


@pytest.mark.parametrize(
    "name, index, replacement",
    [
        ("gelu", 0, np.zeros((3, 4))),  # float64
        ("attention", 3, np.ones((2, 1, 150, 169), bool)),
        ("attention", 3, np.ones((2, 1, 150, 170), np.float32)),
        ("attention", 1, np.zeros((2, 3, 170, 24), np.float32)),
        ("attention", 2, np.zeros((2, 2, 170, 16), np.float32)),
        ("rope", 1, np.zeros((3, 1, 150, 24), np.float32)),
        ("layer_norm", 1, np.zeros(49, np.float32)),
        ("cross_entropy", 1, np.zeros(700, np.int64)),
    ],
)
def test_operands_that_do_not_fit_are_refused(name, index, replacement, library):
    inputs, shapes = OPERATORS[name]
    code, outputs = library.call(name, [*inputs[:index], replacement, *inputs[index + 1 :]], shapes)
    assert code == 2 and all(np.isnan(a).all() for a in outputs)


def test_a_missing_operand_is_refused(library):
    inputs, shapes = OPERATORS["silu_mul"]
    assert library.call("silu_mul", inputs[:1], shapes)[0] == 2


def test_status_and_threads(fused):
    found = kernels.status()
    assert found.fused and found.library.is_file() and found.threads >= 1 and "C++" in found.reason
    assert kernels.status() is found
    kernels.set_threads(3)
    assert kernels.status().threads == 3
    kernels.set_threads(0)
    assert kernels.status().threads == len(os.sched_getaffinity(0))
    with kernels.primitives_only():
        assert not kernels.status().fused and native.library() is None
    assert kernels.status().fused


def works_without():
    assert native.library() is None
    y = kernels.Gelu()(Tensor(np.array([0.0, 1.0], np.float32))).asnumpy()
    np.testing.assert_allclose(y, [0, 0.841345], rtol=1e-5)


def test_no_compiler(fresh, monkeypatch):
    monkeypatch.setattr(native, "COMPILERS", ("petrun-no-such-compiler",))
    found = kernels.status()
    assert not found.fused and "no C++ compiler found (petrun-no-such-compiler)" in found.reason
    works_without()


@pytest.mark.parametrize(
    "body, reason",
    [
        ("echo 'first line' >&2\necho 'fatal error: no such header' >&2\nexit 4\n", "fatal error: no such header"),
        ("exit 4\n", "exit status 4"),
        ("echo garbage > $out\n", "could not be built"),
        ("exit 0\n", "could not be built"),
    ],
)
def test_a_build_that_fails(body, reason, fresh, monkeypatch, capfd):
    monkeypatch.setattr(native, "COMPILERS", (compiler_at(fresh / "cc", body),))
    found = kernels.status()
    assert not found.fused and reason in found.reason and "primitives" in found.reason
    assert not list((fresh / "cache").rglob("unfinished*"))
    works_without()
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_cannot_be_made(fused, fresh, monkeypatch):
    (fresh / "file").write_text("")
    native.use_cache(fresh / "file" / "below")
    monkeypatch.setattr(native, "COMPILERS", (compiler_at(fresh / "cc", f"cp '{_built()}' $out\n"),))
    found = kernels.status()
    assert found.fused and found.library.is_file() and fresh not in found.library.parents


def _built():
    """A finished library, from the user's cache."""
    return subprocess.run(
        [sys.executable, "-c", "from petrun.kernels import native; print(native.library())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[-1]


def test_the_digest_follows_sources_compiler_and_flags(fresh, monkeypatch):
    one = compiler_at(fresh / "one", "exit 1\n")
    digests = [native._digest(one), native._digest(one)]
    other = fresh / "two"
    shutil.copy(one, other)
    other.write_text(other.read_text().replace("1.0", "1.1"))
    digests.append(native._digest(str(other)))
    with monkeypatch.context() as m:
        m.setattr(native, "FLAGS", (*native.FLAGS, "-g"))
        digests.append(native._digest(one))
    with monkeypatch.context() as m:
        m.setattr(native, "_processor_features", lambda: "flags: none")
        digests.append(native._digest(one))
    copies = []
    for source in native.sources():
        copies.append(fresh / source.name)
        shutil.copy(source, copies[-1])
    copies[0].write_text(copies[0].read_text() + "// more\n")
    monkeypatch.setattr(native, "sources", lambda: copies)
    digests.append(native._digest(one))
    assert digests[0] == digests[1] and len(set(digests)) == 5


@pytest.mark.all_only
def test_processes_at_once_build_once(fused, fresh):
    """Three processes find an empty cache at the same moment."""
    log = fresh / "log"
    compiler = compiler_at(fresh / "cc", f"echo built >> '{log}'\nsleep 1\ncp '{native.library()}' $out\n")
    code = (
        "import sys, pathlib\n"
        "from petrun.kernels import native\n"
        "native.COMPILERS = (sys.argv[1],)\n"
        "native.use_cache(pathlib.Path(sys.argv[2]))\n"
        "print(native.status())\n"
        "sys.exit(0 if native.status().fused else 1)\n"
    )
    command = [sys.executable, "-c", code, compiler, str(fresh / "shared")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [p.communicate(timeout=120)[0] for p in started]
    assert [p.returncode for p in started] == [0] * 3, outputs
    assert log.read_text().split() == ["built"]
    assert sorted(p.name for p in (fresh / "shared").rglob("*.so")) == ["petrun_kernels.so"]


@pytest.mark.all_only
def test_a_real_build_in_an_empty_cache(fused, fresh):
    assert kernels.status().fused
    assert fresh in kernels.status().library.parents
    y = kernels.Gelu()(Tensor(normal(100))).asnumpy()
    with kernels.primitives_only():
        np.testing.assert_allclose(y, kernels.Gelu()(Tensor(normal(100))).asnumpy(), atol=1e-6)
