"""Load a base from disk, or call a user's own function, and return a net with its weights. The only file that imports by string."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

import mindspore as ms
import numpy as np
from mindspore import nn

from petrun import console
from petrun.data.tasks import IMAGE
from petrun.errors import ModelError, SetupError, did_you_mean
from petrun.graph.sites import Sites
from petrun.kernels.device import on_ascend
from petrun.models.base import Family, FamilyConfig, LoadedModel, StoredName
from petrun.models.builtin import BaseConfig, Head, assemble, outline
from petrun.models.families import FAMILIES
from petrun.models.folder import BASE_HINT, config_path, read_json
from petrun.models.pipeline import read_unet_config, require_no_pipeline
from petrun.models.quantised import quantised_view, without_quantisation
from petrun.models.weights import check, load, match, open_weights
from petrun.tensors import content_digest
from petrun.tensors.sharded.ranks import root_of
from petrun.typing import Cell, JsonObject

_OWN = "A model of your own is given as --model module:function or --model path/file.py:function."


def is_factory(family: str | None) -> bool:
    """Return whether --model names a user's function: module:function or path/file.py:function."""
    return family is not None and re.search(r"[^:]:[A-Za-z_][\w.]*$", family) is not None


def read_model_config(base: Path | None, family: str | None = None, config: Path | None = None) -> JsonObject:
    """Read config.json, and check that its family exists; {} for a factory. No weights are read.

    Raises ModelError.
    """
    return {} if is_factory(family) else _read_config(base, family, config)[1]


def _read_config(
    base: Path | None, family: str | None, config: Path | None, task: str | None = None
) -> tuple[Path, JsonObject, Family]:
    """Return the path of config.json, its content (with the user's model_type where it has none), and its family."""
    if task == IMAGE:
        return read_unet_config(base, family, config)
    require_no_pipeline(base)
    types = {t: f for f in FAMILIES.values() for t in f.model_types}
    if family is not None and family not in FAMILIES and family not in types:
        raise ModelError(f"--model {family}: no such family. {did_you_mean(family, {*FAMILIES, *types})}", hint=_OWN)
    path = config_path(base, config)
    raw = read_json(path)
    stated = raw.get("model_type", family)
    if stated is None:
        raise ModelError(f"{path}: has no model_type", hint=f"--model names it: {', '.join(sorted(types))}.")
    if not isinstance(stated, str) or stated not in types:
        raise ModelError(
            f"{path}: model_type = {stated!r} is not supported; supported: {', '.join(sorted(types))}", hint=_OWN
        )
    if family is not None and family not in (stated, types[stated].name):
        raise ModelError(f"--model {family} contradicts model_type = {stated!r} in {path}", hint="Leave --model out.")
    return path, {**raw, "model_type": stated}, types[stated]


def read_family(
    base: Path | None, family: str | None, config: Path | None = None, task: str | None = None
) -> tuple[JsonObject, Family, FamilyConfig]:
    """Return config.json as `read_model_config` does, its family with the head of the task (None: with that which config.json names), and
    the family's parsed config. Raises ModelError.

    `task`: image reads the U-Net of a pipeline, which no other task takes.
    """
    described = _describe(*_read_config(base, family, config, task), task)
    return described.raw, described.family, described.config


def _describe(path: Path, raw: JsonObject, family: Family, task: str | None) -> BaseConfig:
    family = family.for_task(task, raw)
    raw = family.complete(raw, path.parent)
    try:
        return BaseConfig(path=path, raw=raw, family=family, config=family.parse(without_quantisation(raw)))
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", hint=error.hint) from error


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The origin of a model: a base's files, or the user's function that makes a net."""

    base: Path | None = None
    """Folder or file of the weights; for a function optional."""
    family: str | None = None
    """A built-in family or a model_type, where config.json does not say; or module:function, path/file.py:function."""
    config: Path | None = None
    """config.json, where it is not beside the weights."""
    strategy: Path | None = None
    """The strategy file, or the folder of them, of a base in the files of a job's ranks."""
    kwargs: Mapping[str, object] = field(default_factory=dict)
    """Keyword arguments of the user's function."""
    quantisation: str | None = None
    """int8 or nf4: the form in which the linear layers of a full-precision base are held; None: as the base holds them."""


@console.working("loading the base")
def load_model(
    source: ModelSource | Path,
    *,
    task: str | None = None,
    num_labels: int | None = None,
    fresh_head: bool = False,
    compute_dtype: str = "float32",
    seed: int = 0,
) -> LoadedModel:
    """Build the net and load its base strictly; it is returned in eval mode, every parameter as stored.

    source: a path alone is that of a base. num_labels: classes of a classification head. The base's own head is kept where it has that
    many (or none are asked for); `fresh_head` replaces it. A new head, and a pooler the base lacks, are initialised from `seed`.
    compute_dtype: "float32", "float16" or "bfloat16": the type of a built-in family's matrices and activations.
    Raises ModelError (config.json, the task, the head, the user's function) and WeightsError (the tensors).
    """
    if isinstance(source, Path):
        source = ModelSource(base=source)
    if is_factory(source.family):
        require_built_in(str(source.family), source.quantisation)
        return _from_function(source, task, num_labels, seed)
    if source.kwargs:
        raise ModelError(
            f"model.kwargs = {dict(source.kwargs)} is for a model of your own, not for a built-in family", hint=_OWN
        )
    path, raw, picked = _read_config(source.base, source.family, source.config, task)
    if task is not None and task not in picked.every_task:
        others = ", ".join(f.name for f in FAMILIES.values() if task in f.every_task)
        raise ModelError(
            f"a {picked.name} base cannot do task {task}; it does: {', '.join(picked.every_task)}",
            hint=f"Families for {task}: {others}." if others else "",
        )
    if source.base is None:
        raise ModelError("no base is given", hint=BASE_HINT)
    if compute_dtype == "bfloat16" and not on_ascend():
        raise SetupError(
            "the CPU has no bfloat16 matrix product",
            hint="Leave model.dtype out: on the CPU a bfloat16 base is loaded as float32.",
        )
    described = _describe(path, raw, picked, task)
    stored = open_weights(path.parent if task == IMAGE else source.base, source.strategy)
    described = replace(described, config=picked.settle(described.config, stored))
    reader = quantised_view(stored, described.family, described.config, raw, source.quantisation)
    return assemble(reader, described, Head(num_labels=num_labels, fresh=fresh_head), compute_dtype, seed)


def outline_model(
    source: ModelSource | Path,
    *,
    task: str | None = None,
    num_labels: int | None = None,
    compute_dtype: str = "float32",
    seed: int = 0,
) -> LoadedModel:
    """Build the net of `load_model` without its weights: only config.json is read, and nothing for a user's function. `task`: as
    read_family.

    A built-in family's parameters are zeros that take no memory; a function's have the values that it sets.
    """
    if isinstance(source, Path):
        source = ModelSource(base=source)
    if is_factory(source.family):
        return _from_function(ModelSource(family=source.family, kwargs=source.kwargs), None, num_labels, seed)
    described = _describe(*_read_config(source.base, source.family, source.config, task), task)
    return outline(described, num_labels, compute_dtype, seed, source.quantisation)


def require_built_in(family: str, quantisation: str | None) -> None:
    """Raises ModelError where the linear layers of a user's own net are to be quantised."""
    if quantisation is not None:
        raise ModelError(
            f"--base-bits {quantisation}: quantises built-in families, and --model {family} makes a net of its own",
            hint="Leave --base-bits out.",
        )


def _from_function(source: ModelSource, task: str | None, num_labels: int | None, seed: int) -> LoadedModel:
    """Call the user's function; its net's own names are the names of its checkpoint. Without a base the values that
    the function set stay: MindSpore's and numpy's seeds are set first, so that they are the same every time."""
    spelled, base = str(source.family), source.base
    if task not in (None, "classify"):
        raise ModelError(
            f"--model {spelled} cannot do task {task}: a model of your own returns logits (B, C), for task classify"
        )
    ms.set_seed(seed)
    net, sites = _call(spelled, dict(source.kwargs))
    names = {p.name: StoredName(name=p.name) for p in net.get_parameters()}
    every = [p.name for p in net.get_parameters()]
    if len(every) > len(names):
        twice = sorted({n for n in every if every.count(n) > 1})
        raise ModelError(f"--model {spelled}: several parameters of its net are called {', '.join(twice)}")
    if not names:
        raise ModelError(f"--model {spelled}: its net has no parameters")
    if base is None:
        digest = _digest_in_memory(net)
    else:
        reader = open_weights(base, source.strategy)
        matched = match(reader, names, ("",), ())
        check(reader, matched, names, net)
        digest = load(reader, matched, net).content
    net.set_train(False)
    return LoadedModel(
        net=net,
        sites=sites,
        family=spelled,
        model_type=spelled,
        inputs=_inputs(net, spelled),
        tasks=("classify",),
        names=names,
        base_digest=digest,
        folder=None if base is None else root_of(base) if root_of(base).is_dir() else base.parent,
        num_labels=num_labels,
    )


def _inputs(net: Cell, spelled: str) -> tuple[str, ...]:
    """Return the names of the arrays that the net's construct takes; () where it does not state them."""
    stated = getattr(net, "inputs", ())
    names = (stated,) if isinstance(stated, str) else tuple(stated) if isinstance(stated, list | tuple) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise ModelError(
            f"--model {spelled}: its net's `inputs` is {stated!r}, not names of arrays",
            hint='For example: inputs = ("x",), one name for each argument of construct.',
        )
    return names


def _digest_in_memory(net: Cell) -> str:
    lines = []
    for p in net.get_parameters():
        values = np.ascontiguousarray(p.float().asnumpy() if p.dtype == ms.bfloat16 else p.asnumpy())
        lines.append((p.name, str(values.dtype), tuple(p.shape), hashlib.sha256(values.tobytes()).hexdigest()))
    return content_digest(lines)


def _call(spelled: str, kwargs: Mapping[str, object]) -> tuple[Cell, Sites]:
    """Return the net and the sites that the user's function returns. Raises ModelError."""
    source, _, name = spelled.rpartition(":")
    with _importable(source):
        module = _import_file(Path(source), spelled) if source.endswith(".py") else _import_module(source, spelled)
        function = _attribute(module, name, spelled)
        try:
            inspect.signature(function).bind(**kwargs)
        except TypeError as error:
            raise ModelError(
                f"--model {spelled}: {error}; it takes {name}{inspect.signature(function)}",
                hint="--set model.kwargs.NAME=VALUE gives its keyword arguments.",
            ) from error
        with UserCode(spelled, str(getattr(module, "__file__", source))):
            result = function(**kwargs)
    net, sites = result if isinstance(result, tuple) and len(result) == 2 else (result, Sites())
    if not isinstance(net, nn.Cell) or not isinstance(sites, Sites):
        given = (
            f"({type(net).__name__}, {type(sites).__name__})" if isinstance(result, tuple) else type(result).__name__
        )
        raise ModelError(
            f"--model {spelled}: returned {given}",
            hint="It must return a mindspore.nn.Cell, or a Cell and a petrun.graph.sites.Sites.",
        )
    return net, sites


@contextmanager
def _importable(source: str) -> Iterator[None]:
    """A context manager: while a file's code runs, files beside it can be imported, as when Python runs the file itself."""
    if not source.endswith(".py"):
        yield
        return
    folder = str(Path(source).resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


class _SourceLoader(SourceFileLoader):
    """Loads from the source: bytecode would be left beside the user's file, and is stale after an edit within the same second."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _import_file(path: Path, spelled: str) -> ModuleType:
    """Load a file under a name made of its content: two files of one name do not conflict, an edited one is read again."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"--model {spelled}: {path} cannot be read: {error.strerror or error}") from error
    identity = hashlib.sha256(str(path.resolve()).encode() + b"\0" + content).hexdigest()[:16]
    name = f"petrun_user_{identity}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve(), loader=_SourceLoader(name, str(path.resolve())))
    if spec is None or spec.loader is None:
        raise ModelError(f"--model {spelled}: {path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    # GRAPH mode looks a cell's source up through sys.modules.
    sys.modules[name] = module
    try:
        with UserCode(spelled, str(path.resolve())):
            spec.loader.exec_module(module)
    except ModelError:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str, spelled: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        beside = Path(name.replace(".", "/") + ".py")
        hint = f"For the file in this folder: --model {beside}:{spelled.rpartition(':')[2]}" if beside.is_file() else ""
        raise ModelError(
            f"--model {spelled}: no module {name} is installed",
            hint=hint or "A file is given as path/file.py:function.",
        )
    with UserCode(spelled, found.origin or name):
        return importlib.import_module(name)


def _attribute(module: ModuleType, name: str, spelled: str) -> Callable[..., object]:
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            public = [n for n, v in vars(value).items() if callable(v) and not n.startswith("_")]
            raise ModelError(f"--model {spelled}: there is no {part} in it. {did_you_mean(part, public)}".rstrip())
        value = getattr(value, part)
    if not callable(value):
        raise ModelError(f"--model {spelled}: {name} is a {type(value).__name__}, not a function")
    function: Callable[..., object] = value
    return function


class UserCode:
    """A context manager that converts any exception of the user's code to a ModelError that names its line.

    Foreign code may raise any exception, so no list of types is enough; --debug still shows the full traceback.
    `describe(error, file)`: the line and the error; by default from the traceback.
    """

    def __init__(self, spelled: str, file: str, describe: Callable[[BaseException, str], str] | None = None) -> None:
        self.spelled = spelled
        self.file = file
        self.describe = describe or _line_and_message

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception | SystemExit):
            return
        raise ModelError(
            f"--model {self.spelled}: {self.describe(error, self.file)}", hint="--debug shows the whole traceback."
        ) from error


def _line_and_message(error: BaseException, file: str) -> str:
    """Return `path/net.py:12: RuntimeError: no luck`, with the last line of the user's own file."""
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if f.filename == file] or frames
        where = f"{theirs[-1].filename}:{theirs[-1].lineno}"
    detail = str(error.msg if isinstance(error, SyntaxError) else error).strip().splitlines()
    return f"{where}: {type(error).__name__}: {detail[0] if detail else ''}".rstrip(": ")
