"""A key for a graph that MindSpore is about to compile: a digest of all that its front end reads.

Everything that a cell's code can reach is part of it: attributes, constants by value, parameters by name, shape and dtype (not by value: a
graph takes them as inputs), operators with their attributes, functions with their closures, and the arguments of the call. petrun's own
code and MindSpore's stand for themselves by the digests of `code_digests`; code of other packages is followed from the cells' methods
through the globals that it names, each by its file. What cannot be told apart by value raises NotKeyed: such a graph has no key.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import platform
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore._c_expression import typing as element_types

import petrun
from petrun.typing import Cell, Parameter

TRUSTED = frozenset({"petrun", "mindspore", "numpy", "builtins"})
"""Packages whose code is part of the key as a whole."""
PURE = frozenset({"math", "cmath", "functools", "itertools", "operator", "typing", "collections", "enum", "abc"})
"""Modules whose functions return the same for the same arguments, in every process."""
_NOT_READ = frozenset(
    "_create_time arguments_key _compile_cache _phase_cache _compile_phase compile_phase current_phase _id _exist_objs _exist_names "
    "_params_list _lazy_construct_sig _jit_graph_name _compiled _is_check_and_refresh _init_flag _cell_init_args "
    "_parameter_layout_dict _parallel_parameter_name_list _parallel_parameter_merge_net_dict phase_prefix hash_obj __signature__ "
    "_scope _phase _func_graph_flags".split()
)
"""Attributes of MindSpore's objects that name the process or what was compiled before, and that no code of a net reads."""
_OF_PARAMETER = (
    "requires_grad layerwise_parallel parallel_optimizer parallel_optimizer_comm_recompute comm_fusion requires_aggr unique "
    "is_pipeline_shared"
).split()
_IMPURE = frozenset("open input eval exec __import__ random load loadtxt genfromtxt fromfile memmap".split())
"""Python's and numpy's own functions, and numpy's module, that return something else in another process."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), slice, range)


class NotKeyed(Exception):
    """The graph depends on something that has no value to compare; the text says what."""


@dataclass(frozen=True, kw_only=True)
class GraphKey:
    """The key, and the parameters that the graph can take as inputs, also those that are no part of the cell, by name."""

    digest: str
    parameters: Mapping[str, Parameter]


def graph_key(
    cell: Cell, arguments: Sequence[object], surroundings: Mapping[str, str], named: Mapping[str, object] | None = None
) -> GraphKey:
    """Return the key of the graph of `cell` for these arguments, of which tensors count by shape and dtype.

    `surroundings`: what else the compiler reads, as text. Raises NotKeyed.
    """
    reader = _Reader()
    try:
        for name in sorted(surroundings):
            reader.put("surroundings", name, surroundings[name])
        for value in arguments:
            reader.argument(value)
        for name, value in (named or {}).items():
            reader.put("named", name)
            reader.argument(value)
        reader.visit(cell)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        # Of a user's object, whose attributes may do anything. The graph is compiled without a key.
        raise NotKeyed(f"{'.'.join(reader.path)}: {type(error).__name__}: {error}") from error
    return GraphKey(digest=reader.digest.hexdigest(), parameters=reader.parameters)


@functools.cache
def code_digests() -> Mapping[str, str]:
    """Return the versions of petrun and MindSpore with digests of their files, for `graph_key`'s surroundings."""
    own = hashlib.sha256()
    root = Path(petrun.__file__).resolve().parent
    for path in sorted(p for kind in ("*.py", "*.cpp", "*.h") for p in root.rglob(kind)):
        content = path.read_bytes()
        own.update(f"{path.relative_to(root).as_posix()} {len(content)} ".encode() + content)
    try:
        # Names every file of the installed package with its digest.
        record = distribution("mindspore").read_text("RECORD") or ""
    except PackageNotFoundError:
        record = ""
    return {
        "petrun": f"{petrun.__version__} {own.hexdigest()}",
        "mindspore": f"{ms.__version__} {hashlib.sha256(record.encode()).hexdigest()}",
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


class _Reader:
    """Writes everything that it visits into a digest, each object once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.parameters: dict[str, Parameter] = {}
        self.seen: dict[int, int] = {}
        # An object that is gone would leave its id to another.
        self.kept: list[object] = []
        self.path: list[str] = []

    def put(self, *words: object) -> None:
        """Add words, each with its length, so that no two sequences are spelt alike."""
        for word in words:
            text = str(word).encode("utf-8", "surrogatepass")
            self.digest.update(b"%d:%b" % (len(text), text))

    def refuse(self, what: str) -> NotKeyed:
        return NotKeyed(f"{'.'.join(self.path) or 'the cell'} holds {what}")

    def argument(self, value: Any) -> None:
        """An argument of the call. MindSpore takes all but tensors as constants, those in a tuple too, and such that are declared so."""
        constant = isinstance(value, ms.Parameter) or getattr(value, "const_arg", False)
        if isinstance(value, ms.Tensor) and not constant:
            self.put("input", tuple(value.shape), value.dtype)
        else:
            self.visit(value)

    def part(self, name: str, value: Any) -> None:
        self.put(name)
        self.path.append(name)
        self.visit(value)
        self.path.pop()

    def visit(self, value: Any) -> None:
        if isinstance(value, enum.Enum):
            self.put("enum", type(value).__module__, type(value).__qualname__, value.name)
        elif isinstance(value, _PLAIN) and type(value).__module__ == "builtins":
            self.put(type(value).__name__, repr(value))
        elif isinstance(value, element_types.Type | np.dtype):
            self.put("dtype", value)
        elif isinstance(value, tuple):
            # Never by whether it was seen: MindSpore puts an equal copy in the place of the weights of a gradient that it has compiled.
            self.sequence(value)
        elif id(value) in self.seen:
            self.put("again", self.seen[id(value)])
        else:
            self.seen[id(value)] = len(self.kept)
            self.kept.append(value)
            for kinds, visit in _VISITS:
                if isinstance(value, kinds):
                    visit(self, value)
                    return
            self.instance(value)

    def parameter(self, value: Any) -> None:
        if self.parameters.setdefault(value.name, value) is not value:
            raise self.refuse(f"two parameters named {value.name}")
        self.put("parameter", value.name, tuple(value.shape), value.dtype)
        self.put(*(getattr(value, name, None) for name in _OF_PARAMETER))

    def tensor(self, value: Any) -> None:
        self.put("tensor", tuple(value.shape), value.dtype)
        if any(size < 0 for size in value.shape):
            raise self.refuse("a tensor whose shape is not known")
        array = value.float().asnumpy() if value.dtype == ms.bfloat16 else value.asnumpy()
        self.digest.update(np.ascontiguousarray(array).tobytes())

    def array(self, value: Any) -> None:
        if value.dtype.hasobject:
            raise self.refuse("an array of objects")
        self.put("array", value.shape, value.dtype)
        self.digest.update(np.ascontiguousarray(value).tobytes())

    def sequence(self, value: Any) -> None:
        self.put(type(value).__qualname__, len(value))
        for index, item in enumerate(value):
            self.part(str(index), item)

    def mapping(self, value: Any) -> None:
        self.put(type(value).__qualname__, len(value))
        for name, item in value.items():
            self.visit(name)
            self.part(str(name), item)

    def members(self, value: Any) -> None:
        if not all(isinstance(item, _PLAIN) for item in value):
            raise self.refuse("a set of objects")
        self.put(type(value).__qualname__, *sorted(map(repr, value)))

    def cell(self, value: Any) -> None:
        self.kind(type(value))
        # Its path in the graph that was compiled first; but a cell whose activations are computed again is known by it.
        self.put(str(value._scope).startswith("recompute"))
        # Containers of hooks are made when they are first looked at, as a compilation does and a load does not.
        self.attributes(
            {name: item for name, item in vars(value).items() if not (name.startswith("_lazy_") and not item)}
        )
        # The flag `training` is there once set_train was called, and says what the attribute says.
        self.mapping({name: item for name, item in value.get_flags().items() if name != "training"})

    def primitive(self, value: Any) -> None:
        self.kind(type(value))
        self.put(value.name)
        self.attributes(vars(value))

    def attributes(self, values: Mapping[str, Any]) -> None:
        names = sorted(values.keys() - _NOT_READ)
        self.put(len(names))
        for name in names:
            self.part(name, values[name])

    def instance(self, value: Any) -> None:
        """Any other object: its class and its attributes."""
        slots = [name for base in type(value).__mro__ for name in _names(vars(base).get("__slots__", ()))]
        values = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
        values.update(getattr(value, "__dict__", {}))
        if type(value).__module__ == "builtins" or _is_opaque(value):
            raise self.refuse(f"a {type(value).__module__}.{type(value).__qualname__}")
        self.kind(type(value))
        self.attributes(values)

    def function(self, value: Any) -> None:
        code = value.__code__
        self.put("function", value.__module__, value.__qualname__)
        self.code(code)
        self.part("defaults", value.__defaults__)
        self.part("named defaults", value.__kwdefaults__)
        self.attributes(vars(value))
        for name, inner in zip(code.co_freevars, value.__closure__ or (), strict=True):
            if name in _NOT_READ:
                continue
            try:
                content = inner.cell_contents
            except ValueError:
                self.put(name, "empty")
            else:
                self.part(name, content)
        if not _is_trusted(value):
            self.source(code)
            self.globals(code, value.__globals__)

    def code(self, code: types.CodeType) -> None:
        """Two functions of one name and line differ in what they do."""
        self.put(code.co_firstlineno, code.co_code.hex(), *code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.put(_spell(constant))

    def source(self, code: types.CodeType) -> None:
        """The file of a function, which is what MindSpore reads."""
        try:
            self.put("file", hashlib.sha256(Path(code.co_filename).read_bytes()).hexdigest())
        except OSError as error:
            raise self.refuse(f"code without a file ({code.co_filename})") from error

    def globals(self, code: types.CodeType, names: Mapping[str, Any]) -> None:
        """What the code, or code inside it, reads from its module and from modules that it names."""
        read = _names_in(code)
        impure = read & _IMPURE
        if impure:
            raise self.refuse(f"code that uses {', '.join(sorted(impure))}")
        for name in sorted(read):
            if name in names:
                self.put(name)
                self.path.append(name)
                self.of_module(names[name], read)
                self.path.pop()

    def of_module(self, value: Any, read: frozenset[str]) -> None:
        if not isinstance(value, types.ModuleType):
            self.visit(value)
            return
        self.put("module", value.__name__)
        root = value.__name__.partition(".")[0]
        if root in TRUSTED or root in PURE:
            return
        file = getattr(value, "__file__", None)
        if file is None or id(value) in self.seen or not _is_user_code(Path(file)):
            if id(value) in self.seen:
                return
            raise self.refuse(f"the module {value.__name__}")
        self.seen[id(value)] = len(self.kept)
        self.kept.append(value)
        for name in sorted(read & vars(value).keys()):
            self.put(name)
            self.of_module(vars(value)[name], read)

    def builtin(self, value: Any) -> None:
        module = getattr(value, "__module__", None) or "builtins"
        root = module.partition(".")[0].lstrip("_")
        owner = getattr(value, "__self__", None)
        if root not in TRUSTED and root not in PURE:
            raise self.refuse(f"the function {module}.{value.__qualname__}")
        self.put("builtin", module, value.__qualname__)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.part("self", owner)

    def method(self, value: Any) -> None:
        self.put("method")
        self.part("function", value.__func__)
        self.part("self", value.__self__)

    def partial(self, value: Any) -> None:
        self.put("partial")
        self.part("function", value.func)
        self.part("arguments", value.args)
        self.part("named", value.keywords)

    def kind(self, value: type) -> None:
        """A class: its name, and where it is nobody's whose code is known as a whole, what its methods are and read."""
        self.put("class", value.__module__, value.__qualname__)
        for base in value.__mro__:
            root = base.__module__.partition(".")[0]
            if root not in TRUSTED and root not in sys.stdlib_module_names and id(base) not in self.seen:
                self.seen[id(base)] = len(self.kept)
                self.kept.append(base)
                self.own_class(base)

    def own_class(self, value: type) -> None:
        for name, item in sorted(vars(value).items()):
            inner = getattr(item, "__func__", None) or getattr(item, "fget", None) or item
            if isinstance(inner, types.FunctionType):
                # What __init__ made is there to be read; where it got it from does not matter.
                if name == "__init__":
                    self.source(inner.__code__)
                else:
                    self.part(name, inner)
            elif not name.startswith("_") and not isinstance(
                item, types.MemberDescriptorType | types.GetSetDescriptorType
            ):
                self.part(name, item)


_VISITS: tuple[tuple[Any, Callable[[_Reader, Any], None]], ...] = (
    (ms.Parameter, _Reader.parameter),
    (ms.Tensor, _Reader.tensor),
    (np.ndarray | np.generic, _Reader.array),
    (nn.Cell, _Reader.cell),
    (ops.Primitive, _Reader.primitive),
    (list, _Reader.sequence),
    (dict | types.MappingProxyType, _Reader.mapping),
    (set | frozenset, _Reader.members),
    (types.FunctionType, _Reader.function),
    (types.MethodType, _Reader.method),
    (types.BuiltinFunctionType | types.MethodWrapperType | types.MethodDescriptorType, _Reader.builtin),
    (functools.partial, _Reader.partial),
    (type, _Reader.kind),
)


def _names(slots: str | tuple[str, ...]) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _spell(constant: object) -> str:
    """A constant of a function; the elements of a set come in another order in every process."""
    return repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)


def _is_opaque(value: object) -> bool:
    """Whether an object keeps something outside of its attributes."""
    return not hasattr(value, "__dict__") and not any("__slots__" in vars(base) for base in type(value).__mro__)


def _is_trusted(value: types.FunctionType) -> bool:
    return (value.__module__ or "").partition(".")[0] in TRUSTED


def _names_in(code: types.CodeType) -> frozenset[str]:
    """Names that a code reads, and code inside it; also those in its text constants, for getattr."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    texts = {constant for constant in code.co_consts if isinstance(constant, str)}
    return frozenset().union(code.co_names, texts, *(_names_in(part) for part in inner))


def _is_user_code(file: Path) -> bool:
    """Whether a module is neither of Python's own library nor an installed package: what those do is not followed."""
    places = file.resolve().parts
    return file.suffix == ".py" and not {"site-packages", "dist-packages"} & set(places) and not _is_library(file)


def _is_library(file: Path) -> bool:
    return file.resolve().is_relative_to(Path(enum.__file__).resolve().parent)
