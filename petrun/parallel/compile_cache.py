"""The compile cache: graphs that MindSpore compiled are kept, and loaded where the same graph is compiled again.

MindSpore has a cache of its own, which names a graph by how many the process compiled before, compares the sources of a few files, and
loads a parameter that is no part of the cell with values of chance. Here only its reading and writing of graphs is used: before a
compilation the graph of `graph_key` is laid, alone, where MindSpore looks for its next one, with all parameters that the cell's code
reaches; afterwards the folder is emptied. So a graph can be loaded for its own key only.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindspore import communication
from mindspore.train import mind_ir_pb2

from petrun import console
from petrun.config.load import cache_folder
from petrun.config.schema import RunConfig
from petrun.errors import OutputError
from petrun.graph.compilations import compiling_executor
from petrun.graph.graph_key import GraphKey, NotKeyed, code_digests, graph_key
from petrun.graph.graph_store import GraphStore, StoredGraph
from petrun.parallel.context import compiler_settings, keep_compiled
from petrun.typing import Cell, Parameter

_PATH = "MS_COMPILER_CACHE_PATH"
_ENABLE = "MS_COMPILER_CACHE_ENABLE"
_ADDRESSES = frozenset(
    "MS_SCHED_HOST MS_SCHED_PORT MS_NODE_ID MS_OM_PATH MS_CPU_COMM_OP_TIMEOUT MS_TOPO_TIMEOUT MS_NODE_TIMEOUT".split()
) | {_PATH}
"""Variables of MindSpore's that differ from start to start, and change no graph."""
_READ = ("MS_", "MINDSPORE_", "ASCEND_", "HCCL_", "GRAPH_", "RANK_", "DEVICE_")


@dataclass(kw_only=True)
class Counts:
    """What became of the graphs of this process that were compiled while the cache was on."""

    loaded: int = 0
    stored: int = 0
    not_keyed: list[str] = field(default_factory=list)
    """Of each graph that has no key, the reason."""


@dataclass(frozen=True, kw_only=True)
class _Compilation:
    """A graph on its way through MindSpore, and the file that it loads or writes."""

    key: GraphKey
    file: Path
    stored: StoredGraph | None
    placed: int
    """Time of the file's last change; 0: there was none."""


def use_compile_cache(config: RunConfig) -> None:
    """Keep the graphs that this process compiles from now on, and load them where they are there, if the settings say so."""
    # Who sets MindSpore's own variable wants MindSpore's own cache.
    keep_graphs(GraphStore(cache_folder() / "graphs") if config.compile_cache and not os.environ.get(_ENABLE) else None)


def keep_graphs(store: GraphStore | None) -> None:
    """Keep the graphs that this process compiles from now on in this store, and load those that are there. None: compile each anew.

    That the store cannot be used is printed once for each call.
    """
    _cache.store, _cache.told = None, False
    if store is not None:
        _cache.open(store)


def counts() -> Counts:
    """What the cache did in this process so far."""
    return _cache.counts


class WithParameters:
    """MindSpore's executor, which is also given the parameters that are no part of the cell."""

    def __init__(self, executor: Any, parameters: Mapping[str, Parameter]) -> None:
        self._executor = executor
        self._parameters = parameters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def __call__(self, *args: Any) -> Any:
        return self._executor(*args)

    def set_weights_values(self, parameters: Mapping[str, Parameter]) -> None:
        self._executor.set_weights_values({**self._parameters, **parameters})


class _Cache:
    """One for the process, as MindSpore has one executor."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.store: GraphStore | None = None
        self.folder: Path | None = None
        """Where MindSpore writes and looks for graphs: it asks for the path once."""
        self.compiled = 0
        """How many graphs were compiled with MindSpore's cache on, which is its name for the next."""
        self.call: tuple[Cell, tuple[object, ...], Mapping[str, object]] | None = None
        self.current: _Compilation | None = None
        self.told = False

    def open(self, store: GraphStore) -> None:
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            store.clean()
            if self.folder is None:
                self.folder = Path(tempfile.mkdtemp(prefix=".compiling-", dir=store.folder))
        except OSError as error:
            self.tell(f"{store.folder}: {error.strerror or error}")
            return
        self.store = store
        # Before anything is compiled, as MindSpore asks once; in the current folder, if it finds nothing here.
        os.environ[_PATH] = str(self.folder)
        self.install()

    def install(self) -> None:
        executor = compiling_executor()
        if executor.__dict__.get("_set_compile_cache_dep_files") == self.before:
            return
        atexit.register(self.close)
        executor.compile = functools.partial(self.compile, executor.compile)
        # Called for a graph that is not there yet, before its parameters are handed over. MindSpore compares the files that it is
        # told of, and gives the cache up for the whole process where one changed; it is told of none.
        executor._set_compile_cache_dep_files = self.before

    def close(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def compile(self, compile_one: Callable[..., Any], cell: Cell, *args: Any, **kwargs: Any) -> Any:
        """MindSpore's `compile`, which also finds a graph that is there already. What it raises of a graph that was stored, such as one
        of a MindSpore that was built otherwise, leads to a compilation."""
        self.call = (cell, args, kwargs)
        done, result = False, None
        try:
            result = compile_one(cell, *args, **kwargs)
            done = True
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            if self.current is None or self.current.stored is None or self.store is None:
                raise
            self.store.remove(self.current.key.digest)
        finally:
            self.call = None
            if self.current is not None:
                self.after(done)
        return result if done else compile_one(cell, *args, **kwargs)

    def before(self, phase: str) -> None:
        """Lay the stored graph, if there is one, where MindSpore looks for it."""
        if self.store is None or self.call is None or self.folder is None:
            return
        surroundings = {**code_digests(), **compiler_settings(), **_variables(), "phase": phase.partition(".")[0]}
        if surroundings["device_target"] != repr("CPU") or surroundings["parallel_mode"] not in (
            "stand_alone",
            "data_parallel",
        ):
            return
        cell, arguments, named = self.call
        try:
            key = graph_key(cell, arguments, surroundings, named)
        except NotKeyed as reason:
            self.counts.not_keyed.append(str(reason))
            return
        stored = self.store.read(key.digest)
        if stored is not None and not key.parameters.keys() >= set(stored.parameters):
            stored = None
        file = (
            self.folder
            / f"rank_{surroundings['rank']}"
            / "graph_cache"
            / f"{_role()}compile_cache_{self.compiled}.mindir"
        )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if stored is not None:
                file.write_bytes(stored.content)
            placed = file.stat().st_mtime_ns if stored is not None else 0
        except OSError as error:
            self.tell(f"{file.parent}: {error.strerror or error}")
            return
        self.current = _Compilation(key=key, file=file, stored=stored, placed=placed)
        executor = compiling_executor()
        executor._graph_executor = WithParameters(executor._graph_executor, key.parameters)
        keep_compiled(True)

    def after(self, done: bool) -> None:
        """Store what MindSpore wrote, and empty its folder."""
        current, self.current = self.current, None
        assert current is not None and self.folder is not None
        keep_compiled(False)
        executor = compiling_executor()
        executor._graph_executor = executor._graph_executor._executor
        self.compiled += 1
        try:
            if done:
                self.keep(current)
        except OutputError as error:
            self.tell(error.message)
        except OSError as error:
            self.tell(f"{error.filename}: {error.strerror or error}")
        finally:
            shutil.rmtree(current.file.parent, ignore_errors=True)

    def keep(self, current: _Compilation) -> None:
        if current.stored is not None and current.file.stat().st_mtime_ns == current.placed:
            self.counts.loaded += 1
        elif self.store is not None and current.file.exists():
            content = current.file.read_bytes()
            names = _parameters_of(content)
            if current.key.parameters.keys() >= set(names):
                self.store.write(current.key.digest, content, names)
                self.counts.stored += 1

    def tell(self, problem: str) -> None:
        """Say once that the cache is not used."""
        self.store = None
        if not self.told:
            self.told = True
            console.print(f"warning: compiled graphs are not kept: {problem}")


_cache = _Cache()


def _parameters_of(content: bytes) -> tuple[str, ...]:
    """Names of the parameters that a graph takes, which MindSpore writes as graph:name."""
    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(content)
    return tuple(parameter.name.partition(":")[2] for parameter in model.graph.parameter)


def _variables() -> dict[str, str]:
    """Environment variables that MindSpore's compiler may read."""
    return {name: value for name, value in os.environ.items() if name.startswith(_READ) and name not in _ADDRESSES}


def _role() -> str:
    """What MindSpore writes before the names of its files."""
    return os.environ.get("MS_ROLE", "") if communication.GlobalComm.INITED else ""
