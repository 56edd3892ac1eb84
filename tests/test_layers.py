"""The dependency rules of the house, checked by walking every import in petrun/."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "petrun"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room may import rooms of its own level or below.
LEVELS = {
    "cli": 3,
    "runs": 2,
    **dict.fromkeys(
        ("config", "models", "delta", "data", "parallel", "train", "checkpoint", "evaluate", "serve", "assets"), 1
    ),
    **dict.fromkeys(("graph", "kernels", "tensors", "errors", "utils", "layers", "log"), 0),
}
# Rooms of the same level that must not know each other.
STRANGERS = {
    ("delta", "models"),
    ("models", "delta"),
    ("kernels", "graph"),
    ("tensors", "graph"),
    ("tensors", "kernels"),
}


def imports(path):
    """(module, imported at module level) for every import statement."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


def room(name):
    """`petrun.delta.lora` -> `delta`; top-level modules are their own room."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "petrun" else None


def where(path):
    return path.relative_to(ROOT)


def test_there_is_something_to_check():
    assert len(FILES) > 40
    # petrun/recipes is a link to the recipes, so that they are installed with the package; it is no room.
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and not p.is_symlink()} - {"__pycache__"}
    assert rooms <= set(LEVELS)


def test_nothing_imports_upward():
    wrong = []
    for path in FILES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name, _ in imports(path):
            other = room(name)
            if own in LEVELS and other in LEVELS and own != other:
                if LEVELS[other] > LEVELS[own]:
                    wrong.append(f"{where(path)} imports {name}: upward")
                if (own, other) in STRANGERS:
                    wrong.append(f"{where(path)} imports {name}: these rooms must not know each other")
    assert not wrong, "\n".join(wrong)


def test_methods_and_families_do_not_import_each_other():
    for group, shared in (
        ("delta", {"base", "compose", "dense", "parts", "prefix_encoder", "__init__"}),
        ("models", None),
    ):
        files = {p.stem for p in (PACKAGE / group).glob("*.py")}
        independent = files - shared if shared else {"bert", "gpt2", "llama"}
        assert len(independent) >= 2
        # A method of several files: lora_dense.py is a part of lora.py, for it and its other parts alone.
        home = {stem: next((m for m in independent if stem.startswith(f"{m}_")), stem) for stem in files}
        for stem in independent:
            for name, _ in imports(PACKAGE / group / f"{stem}.py"):
                parts = name.split(".")
                if parts[:2] == ["petrun", group] and len(parts) > 2 and parts[2] in independent:
                    assert home[parts[2]] == home[stem], f"{group}/{stem}.py imports {name}"
                    assert home[stem] == stem or parts[2] != home[stem], f"{group}/{stem}.py imports the file it is of"


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def files_calling(*names):
    return {path.relative_to(PACKAGE).as_posix() for path in FILES for call in calls(path) if call in names}


def test_only_parallel_touches_mindspores_context():
    assert files_calling(
        "ms.set_context", "ms.set_device", "mindspore.set_context", "set_context", "ms.set_auto_parallel_context"
    ) == {"parallel/context.py"}
    assert files_calling("communication.init", "init") == {"parallel/context.py"}


def test_only_cli_and_the_report_print():
    printers = files_calling("print", "typer.echo", "typer.secho", "tqdm.write")
    assert all(p.startswith("cli/") or p == "train/report.py" for p in printers), printers


def test_only_cli_exits():
    assert all(p.startswith("cli/") for p in files_calling("sys.exit", "exit", "quit", "os._exit"))


def test_only_config_reads_yaml():
    readers = {p.relative_to(PACKAGE).as_posix() for p in FILES if any(n == "yaml" for n, _ in imports(p))}
    # freeze_from_config is MindPet's interface, and takes a path.
    assert readers == {"config/load.py", "graph/freeze_utils.py"}


def test_only_the_factory_imports_by_string():
    importers = files_calling(
        "importlib.import_module", "import_module", "__import__", "importlib.util.spec_from_file_location"
    )
    assert importers <= {"models/factory.py", "models/user_factory.py"} and importers


def test_nothing_dangerous():
    assert not files_calling(
        "eval", "exec", "pickle.load", "pickle.loads", "yaml.load_all", "np.load.pickle", "os.system"
    )


def test_no_broad_except():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                assert caught not in ("everything", "Exception", "BaseException"), (
                    f"{where(path)}:{node.lineno} catches {caught}"
                )


def test_files_and_functions_hold_one_idea():
    long = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            long.append(f"{where(path)}: over 400 lines")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.FunctionDef)
                and (node.end_lineno or 0) - node.lineno > 60
                and "cli" not in path.parts
            ):
                long.append(f"{where(path)}:{node.lineno} {node.name}: over 60 lines")
    assert not long, "\n".join(long)


def test_help_needs_no_mindspore():
    """The command line and what it imports at module level must not pull in MindSpore."""
    seen, todo = set(), ["petrun.cli.app"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = ROOT / (name.replace(".", "/") + ".py")
        path = path if path.exists() else ROOT / name.replace(".", "/") / "__init__.py"
        if path.exists():
            todo += [n for n, top in imports(path) if top and n.startswith("petrun")]
            assert not any(n.split(".")[0] in ("mindspore", "pydantic", "numpy") for n, top in imports(path) if top), (
                where(path)
            )
    assert "petrun.cli.train" in seen
