"""Build a stub of CANN: empty functions with the names that MindSpore's Ascend plugin links to, so that it loads without a card.

MindSpore then compiles the graphs of any rank of any cluster. Nothing runs, and nothing is copied from CANN: the symbols that the plugin
in MindSpore's wheel lacks are read from its symbol tables, and defined as functions that return 0. The stub is built once with g++ (about
5 s) and kept in the user's cache, in a folder named by a digest of all that it depends on. Needs g++ and readelf on Linux, x86-64.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from petrun.errors import SetupError
from petrun.tensors.atomic import atomic_folder, output_error

_TBE = Path("opp", "built-in", "op_impl", "ai_core", "tbe")
"""MindSpore looks for this path, and for lib64, in its environment."""
_LIBRARY = "libcann_stub.so"
_SPECIAL = "stub_cann.cpp"
_BUILD_SECONDS = 300
_HOST = re.compile(r"(libc|libm|libstdc\+\+|libgcc_s|libpthread|libdl|librt|libgomp|libz|ld-linux[\w-]*)\.so")
_HOST_LIBRARIES = (
    "libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1",
    "libgomp.so.1", "libz.so.1", "ld-linux-x86-64.so.2",
)  # fmt: skip
_OPENED_BY_NAME = (
    "libascendcl.so", "libhccl.so", "libmsprofiler.so", "libge_runner.so", "libgraph.so", "libacl_op_compiler.so",
    "libacl_tdt_channel.so", "libopapi.so", "libprofapi.so",
)  # fmt: skip
_LOOKED_UP = (
    "InitHugeMemThreadLocal", "UnInitHugeMemThreadLocal", "ReleaseHugeMem", "InitPTACacheThreadLocal",
    "UnInitPTACacheThreadLocal", "SetPTAHashKey", "SetPTACacheHashKey", "CanUsePTACache", "PTAGetExecCache",
    "PTAFindExecCache", "AddTensorAddrToCachedList", "GetOpExecCache", "ReleaseExecutor",
)  # fmt: skip
_LAUNCH = (
    "MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_ID", "MS_NODE_RANK", "RANK_TABLE_FILE",
    "MINDSPORE_HCCL_CONFIG_PATH", "DEVICE_ID", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
)  # fmt: skip
"""What a launcher leaves in the environment, and what would make MindSpore look for a cluster."""


def environment(stub: Path, rank: int, world: int, level: int, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that is one rank of a cluster which is not there.

    It must be set before Python starts: the loader reads LD_LIBRARY_PATH once. level: MindSpore's simulation level, 0 compiles,
    1 chooses kernels and plans the memory as well. `base`: the environment to start from, by default this process's own.
    """
    env = {k: v for k, v in (os.environ if base is None else base).items() if k not in _LAUNCH}

    def before(name: str, path: Path) -> str:
        return f"{path}:{env[name]}" if env.get(name) else str(path)

    return {
        **env,
        "LD_LIBRARY_PATH": before("LD_LIBRARY_PATH", stub / "lib64"),
        "PYTHONPATH": before("PYTHONPATH", stub / _TBE),
        "ASCEND_HOME_PATH": str(stub),
        "ASCEND_OPP_PATH": str(stub / "opp"),
        "MS_SIMULATION_LEVEL": str(level),
        "RANK_SIZE": str(world),
        "RANK_ID": str(rank),
    }


def ensure_stub(cache: Path) -> Path:
    """Return the stub's folder in `cache`, built if it does not exist; of two processes at once one builds and the other waits.

    Raises SetupError: no g++ or readelf, another system than Linux on x86-64, a MindSpore without the Ascend plugin, a failing build.
    """
    compiler = _compiler()
    mindspore = _mindspore()
    root = cache / "ascend"
    # MindSpore looks for "cann" in the path of what it loaded.
    folder = root / f"{_digest(mindspore)}_stub_cann"
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                with atomic_folder(folder) as unfinished:
                    _build(unfinished, compiler, mindspore)
    except OSError as error:
        raise output_error(root, error) from error
    return folder


def _compiler() -> str:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise SetupError(
            f"a rehearsal needs Linux on x86-64, this is {sys.platform} on {platform.machine()}",
            hint="Run it on such a machine; it needs no card.",
        )
    missing = [name for name in ("g++", "readelf") if shutil.which(name) is None]
    if missing:
        raise SetupError(
            f"a rehearsal builds a stub of CANN, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not found",
            hint="Install a compiler and binutils: apt-get install g++ binutils",
        )
    return str(shutil.which("g++"))


def _mindspore() -> Path:
    """Return MindSpore's folder, without importing it."""
    spec = importlib.util.find_spec("mindspore")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not (folder / "lib" / "plugin" / "libmindspore_ascend.so.2").is_file():
        raise SetupError(
            "the installed MindSpore has no Ascend plugin", hint="pip install mindspore: its Linux wheel brings one."
        )
    return folder


def _digest(mindspore: Path) -> str:
    """Return a digest of the wheel's own list of files and of the sources of the stub."""
    digest = hashlib.sha256(str(mindspore).encode())
    digest.update((importlib.metadata.distribution("mindspore").read_text("RECORD") or "").encode())
    for source in (Path(__file__), Path(__file__).with_name(_SPECIAL)):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:20]


def _build(folder: Path, compiler: str, mindspore: Path) -> None:
    plugin = mindspore / "lib" / "plugin"
    scanned = [path for path in _plugin_libraries(plugin) if path.is_file()]
    shipped = {path.name: path for path in sorted((mindspore / "lib").rglob("*.so*")) if path.is_file()}
    names, symbols = _missing(scanned, shipped, compiler)
    for part in ("lib64", "compiler", _TBE / "hccl"):
        (folder / part).mkdir(parents=True)
    source = folder / "stub.S"
    source.write_text(_assembly(symbols))
    special = Path(__file__).with_name(_SPECIAL)
    library = folder / "lib64" / _LIBRARY
    # MindSpore's wheel is built with the old strings of libstdc++.
    flags = ["-O1", "-std=c++17", "-D_GLIBCXX_USE_CXX11_ABI=0", "-shared", "-fPIC", f"-Wl,-soname,{_LIBRARY}"]
    _run([compiler, *flags, "-o", str(library), str(special), str(source)])
    for name in sorted(names):
        (folder / "lib64" / name).symlink_to(_LIBRARY)
    # mindspore.communication imports hccl.sys_version. There is no `te` on purpose: MindSpore would import more of it.
    version = (plugin / "ascend" / "custom_ascendc_910b" / "version.info").read_text().strip().rpartition("=")[2]
    (folder / _TBE / "hccl" / "__init__.py").write_text("")
    (folder / _TBE / "hccl" / "sys_version.py").write_text(f'__sys_version__ = "{version}"\n')
    (folder / "compiler" / "version.info").write_text(f"Version={version}\n")


def _plugin_libraries(plugin: Path) -> list[Path]:
    ascend = plugin / "ascend"
    named = ("ascend_res_manager", "graph_ir")
    return [
        plugin / "libmindspore_ascend.so.2",
        plugin / "libmindspore_ops_ascend.so",
        *(ascend / f"libmindspore_{name}.so" for name in named),
        *(ascend / name for name in ("libd_collective.so", "libhccl_plugin.so", "liblowlatency_collective.so")),
        *sorted(ascend.glob("ms_kernels_symmetric_memory/shmem/*/lib/*.so")),
    ]


def _missing(scanned: Iterable[Path], shipped: Mapping[str, Path], compiler: str) -> tuple[set[str], list[str]]:
    """Return (libraries, symbols) that the plugin asks for and that neither MindSpore nor the system has."""
    libraries, undefined, looked_up = set(_OPENED_BY_NAME), set(), set(_LOOKED_UP)
    todo = [*scanned, *(path for name, path in shipped.items() if re.match(r"libmindspore_.*\.so$", name))]
    scanned, seen, defined = set(scanned), set(), set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        needed, own, asked = _tables(path)
        todo += [shipped[name] for name in needed if name in shipped]
        defined |= own
        if path in scanned:
            libraries |= {name for name in needed if name not in shipped and not _HOST.match(name)}
            undefined |= asked
            # Names for dlsym, which are plain strings in the library.
            looked_up |= {
                found.decode()
                for found in re.findall(
                    rb"(?<=\0)((?:acl|Hccl|hal|rt|Msprof)[a-z]*[A-Z][A-Za-z0-9]+)(?=\0)", path.read_bytes()
                )
            }
    looked_up |= {f"{name}GetWorkspaceSize" for name in looked_up if name.startswith("aclnn")}
    for name in _HOST_LIBRARIES:
        found = Path(_run([compiler, f"-print-file-name={name}"]).strip())
        if found.is_file():
            defined |= _tables(found)[1]
    symbols = (undefined | looked_up) - defined
    return libraries, sorted(s for s in symbols if not re.match(r"_?Py|__gmon_start|_ITM_", s))


def _tables(path: Path) -> tuple[list[str], set[str], set[str]]:
    """Return (libraries it needs, symbols it defines, symbols it must find elsewhere) of a shared library."""
    text = _run(["readelf", "-dW", "--dyn-syms", str(path)])
    needed = re.findall(r"NEEDED.*\[(.+?)\]", text)
    defined, undefined = set(), set()
    for bind, place, name in re.findall(
        r"^ *\d+: +[0-9a-f]+ +\S+ +\S+ +(.+?) +(?:DEFAULT|PROTECTED) +(\S+) +([^@\s]+)", text, re.MULTILINE
    ):
        if place != "UND":
            defined.add(name)
        elif bind != "WEAK":
            undefined.add(name)
    return needed, defined, undefined


def _assembly(symbols: Iterable[str]) -> str:
    """Return the assembly with a weak definition of each symbol, which a definition in C++ replaces."""
    parts = [".bss\n.balign 64\nstub_handle: .zero 65536\n"]
    for name in symbols:
        head = f".weak {name}\n.type {name},"
        if re.match(r"_ZT[VIS]", name):
            # Virtual tables and type names: data that is only pointed at.
            parts.append(f".bss\n.balign 16\n{head}@object\n.size {name},1024\n{name}: .zero 1024\n")
            continue
        body = "xorl %eax,%eax"
        if re.match(r"_ZN2ge8Operator(7SetAttr|8SetInput)", name):
            body = "movq %rdi,%rax"  # returns *this
        elif re.match(r"acl(|mdl|op|prof|tdt)Create", name):
            body = "leaq stub_handle(%rip),%rax"  # a handle: any pointer that is not null
        parts.append(f".text\n{head}@function\n{name}: {body}\n ret\n.size {name},.-{name}\n")
    return "".join([*parts, '.section .note.GNU-stack,"",%progbits\n'])


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, errors="replace", timeout=_BUILD_SECONDS
        ).stdout
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or [f"exit status {error.returncode}"]
        raise SetupError(
            f"the stub of CANN could not be built: {command[0]} failed: {last[0]}",
            hint="Check that the compiler works on its own: echo 'int main() {}' | g++ -x c++ -",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(
            f"the stub of CANN could not be built: {command[0]} took over {_BUILD_SECONDS} s",
            hint="Try again when the machine has less to do.",
        ) from error
