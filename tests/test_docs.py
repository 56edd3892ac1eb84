"""README and docs name things that exist: paths, tests, modules, recipes, commands with their options, settings, links and headings."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

from petrun.cli.app import app
from petrun.config.load import recipe_names
from petrun.config.schema import RunConfig
from tests.conftest import ROOT
from tests.test_layers import LAYERS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "tests" / "MINDPET.md"])
TOP = {path.relative_to(ROOT).as_posix(): path for path in PAGES}
each_page = pytest.mark.parametrize("page", PAGES, ids=list(TOP))

_PATH = re.compile(r"(?<![\w/.:~-])(?:petrun|tests|docs|scripts|recipes)/[\w./-]*\w(?:/|\b)")
_NODE = re.compile(r"((?:tests/)?(?:[\w]+/)*test_\w+\.py)((?:::\w+)*)")
_MODULE = re.compile(r"(?<![\w/.@-])petrun(?:\.\w+)+")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OTHER_TOOLS = (
    "pip",
    "docker",
    "msrun",
    "python",
    "sbatch",
    "kubectl",
    "bash",
    "pytest",
    "git",
    "apt-get",
    "curl",
    "awk",
)
_FOREIGN = {
    # Options of other programs that the text names.
    *("--entrypoint", "--build-arg", "--shm-size", "--ipc", "--network", "--group-add", "--join"),
}
_NOT_CHECKED = {"CHANGELOG.md"}
"""Pages that name what was there before."""


def text_of(page):
    return page.read_text(encoding="utf-8")


@cache
def commands():
    """Words of a command, such as `delta add` -> its options, for every command of the program and the program itself."""
    found = {}

    def walk(command, words):
        # A command may make its options when they are first asked for.
        params = command.get_params(command.context_class(command))
        options = {name for one in params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}
        found[" ".join(words)] = options | {"--help", "-h", "--debug", "--quiet"}
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*words, name])

    walk(typer.main.get_command(app), [])
    return found


def spans(text):
    """Pieces of the text that are code: lines of blocks, those ended by a backslash joined, and what stands between backticks."""
    text = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^(?: {4}|\t)\s*(.+)$", rest, re.MULTILINE)
    prose = re.sub(r"^(?: {4}|\t).*$", "", rest, flags=re.MULTILINE)
    return [*(line for block in fenced for line in block.splitlines()), *indented, *re.findall(r"`([^`]+)`", prose)]


def words_of(line):
    """Words of a line of shell without its comment; those of a line that the shell would not take are told apart by spaces."""
    line = re.sub(r"\s#\s.*$", "", line.removeprefix("$ "))
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def calls(text):
    """(command, options) for every call of petrun: of `petrun job ... -- OPTIONS`, what follows is a call of train."""
    for line in spans(text):
        words = words_of(line)
        if not words or (words[0] not in ("petrun", "$(which") and "petrun" not in words):
            continue
        start = words.index("petrun") if "petrun" in words else None
        if start is None or any("/" in word for word in words[:start]) or (start and words[0] not in _OTHER_TOOLS):
            continue
        rest = words[start + 1 :]
        end = rest.index("--") if "--" in rest else len(rest)
        yield rest[:end]
        if "job" in rest[:1] and end < len(rest):
            yield ["train", *rest[end + 1 :]]


def problem_of(call):
    """What is wrong with the words behind `petrun`; None where nothing is, or where they are no call."""
    if not call or not re.fullmatch(r"[a-z_]+|-{1,2}[a-z-]+", call[0]):
        return None
    if call[0].startswith("-"):
        name = ""
    else:
        name = " ".join(call[:2]) if " ".join(call[:2]) in commands() else call[0]
        if name not in commands():
            return f"petrun {call[0]}: no such command"
    options = {word.split("=")[0] for word in call if re.match(r"--?[a-z]", word)}
    unknown = sorted(options - commands()[name])
    return f"petrun {name}: no option {', '.join(unknown)}" if unknown else None


@each_page
def test_commands_and_their_options_exist(page):
    problems = {problem_of(call) for call in calls(text_of(page))} - {None}
    assert not problems, "\n".join(sorted(problems))


def test_the_calls_are_seen():
    text = "    petrun trian --algo lora\n    $ petrun train --rnak 8   # --no\nand `petrun job --to slurm -- --agol x`"
    found = [problem_of(call) for call in calls(text)]
    assert found == [
        "petrun trian: no such command",
        "petrun train: no option --rnak",
        None,
        "petrun train: no option --agol",
    ]
    assert sum(len(list(calls(text_of(page)))) for page in PAGES) > 80


@each_page
def test_options_that_stand_alone_are_of_some_command(page):
    known = set().union(*commands().values()) | _FOREIGN
    named = {word.split("=")[0] for line in spans(text_of(page)) if line.startswith("--") for word in line.split()[:1]}
    unknown = sorted(word for word in named - known if re.fullmatch(r"--[a-z][a-z-]+", word))
    others = " ".join(line for line in spans(text_of(page)) if line.split()[:1] and line.split()[0] in _OTHER_TOOLS)
    assert not [word for word in unknown if word not in others]


def is_setting(key):
    """Whether the schema, or for delta.* one of the algorithms, knows a key as --set takes it."""
    from petrun.delta import METHODS

    first, *rest = key.split(".")
    if first == "delta":
        return any(rest[0] in method.config.model_fields for method in METHODS.values())
    model = RunConfig
    for part in (first, *rest):
        fields = getattr(model, "model_fields", None)
        if fields is None:
            return True
        if part not in fields:
            return False
        model = fields[part].annotation
    return True


@each_page
def test_settings_exist(page):
    keys = set(re.findall(r"--set '?([a-z_]+(?:\.[a-z_]+)+)=", text_of(page)))
    keys |= set(re.findall(r"`((?:delta|data|optim|train|eval|model|parallel|out)\.[a-z_]+)=[^`]*`", text_of(page)))
    keys |= {
        key for names in re.findall(r"--allow ([a-z_.,]+)", text_of(page)) for key in names.split(",") if "." in key
    }
    assert not sorted(key for key in keys if not is_setting(key))


def test_settings_are_seen():
    assert (
        is_setting("optim.beta2")
        and is_setting("delta.rank")
        and is_setting("data.chat_template_kwargs.enable_thinking")
    )
    assert not is_setting("optim.beta9") and not is_setting("delta.rnak")


@each_page
def test_recipes_exist(page):
    families = {name.split("/")[0] for name in recipe_names()}
    named = set(re.findall(rf"\b((?:{'|'.join(families)})/[\w-]+)(?![\w/.])", "\n".join(spans(text_of(page)))))
    outside = {name for name in named if (ROOT / "petrun" / "models" / name).exists()}
    assert not sorted(named - outside - set(recipe_names()))


@each_page
def test_paths_exist(page):
    if page.name in _NOT_CHECKED:
        return
    named = {path for path in _PATH.findall(text_of(page)) if "..." not in path and "NAME" not in path}
    assert not sorted(path for path in named if not (ROOT / path).exists())


@each_page
def test_tests_exist(page):
    """A test may be named by its file alone where only one file of tests/ has that name."""
    missing = []
    for name, inner in _NODE.findall(text_of(page)):
        if "NAME" in name:
            continue
        files = [ROOT / name] if name.startswith("tests/") else list((ROOT / "tests").rglob(Path(name).name))
        files = [file for file in files if file.as_posix().endswith(f"/{name}")]
        if len(files) != 1 or not files[0].exists():
            missing.append(name)
        elif inner:
            defined = {node.name for node in ast.walk(ast.parse(text_of(files[0]))) if hasattr(node, "name")}
            missing += [f"{name}::{part}" for part in inner.split("::")[1:] if part not in defined]
    assert not missing


def names_of(path):
    """Names that a module's source defines, imports or lists in __all__."""
    tree = ast.parse(text_of(path))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_importable(dotted):
    """Whether a dotted name is a package, a module, or a name that one of them holds."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if source.exists():
            return end == len(parts) or parts[end] in names_of(source)
        if path.is_dir() and end == len(parts):
            return True
    return False


@each_page
def test_modules_exist(page):
    if page.name in _NOT_CHECKED:
        return
    assert not sorted(name for name in set(_MODULE.findall(text_of(page))) if not is_importable(name))


@each_page
def test_imports_of_examples_exist(page):
    if page.name in _NOT_CHECKED:
        return
    missing = []
    for module, names in re.findall(r"^\s*from (petrun[\w.]*) import ([\w, ]+)", text_of(page), re.MULTILINE):
        missing += [
            f"{module}.{name.strip()}" for name in names.split(",") if not is_importable(f"{module}.{name.strip()}")
        ]
    assert not missing


def anchors(page):
    """Headings as GitHub links them: lower case, punctuation gone, spaces as hyphens."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    }


@each_page
def test_links_lead_somewhere(page):
    broken = []
    for link in _LINK.findall(text_of(page)):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


def test_every_page_is_linked_from_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(text_of(index)) if "://" not in link
    }
    assert not sorted(path.name for path in PAGES if path.resolve() not in linked and path != index)


def test_the_changelog_names_modules_that_exist():
    rows = re.findall(r"^\| `(petrun[\w.]+)` \| `(petrun[\w.]+)` \|", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert len(rows) > 100 and not [new for _, new in rows if not is_importable(new)]


def test_options_of_scripts_exist():
    """`python scripts/x.py --option`: the script's source names the option."""
    missing = []
    for page in PAGES:
        for script, rest in re.findall(r"python (scripts/[\w/]+\.py)((?: [^`\n#]*)?)", text_of(page)):
            source = text_of(ROOT / script)
            missing += [
                f"{script} {option}" for option in re.findall(r"(--[a-z][\w-]*)", rest) if f'"{option}"' not in source
            ]
    assert not missing


QUOTED = {
    "README.md": ("held in", "end of text in", "warm-up steps"),
    "docs/cluster.md": (
        "and all hosts came",
        "free under",
        "clocks differ by",
        "each reaches each",
        "does not see what host",
    ),
    "docs/parallel.md": ("differs from rank 0 in",),
    "docs/receipt.md": ("held in", "largest gradient norm", "is still zero", "no gradient reached the delta"),
    "docs/rehearse.md": ("These divide", "shards as on rank", "no data is given", "all but the activations fits"),
    "docs/resume.md": (
        "was begun with other settings or data",
        "Resume with these as they were",
        "torn state",
        "is cut off",
    ),
    "docs/rows.md": ("targets from",),
    "docs/sharded.md": ("says nothing of", "holds no layouts", "is not a strategy file"),
}


def test_quoted_output_is_what_the_program_prints():
    source = "\n".join(text_of(path) for path in (ROOT / "petrun").rglob("*.py"))
    for name, fragments in QUOTED.items():
        page = text_of(TOP[name])
        for fragment in fragments:
            assert fragment in page and fragment in source, f"{name}: {fragment}"


def test_the_architecture_shows_every_package_and_the_layers_of_the_test():
    page = text_of(TOP["docs/architecture.md"])
    tree = re.search(r"^    petrun/\n(.*?)^    recipes/", page, re.DOTALL | re.MULTILINE)[1]
    for folder in (ROOT / "petrun").iterdir():
        if (folder / "__init__.py").exists():
            assert re.search(rf"^ .*\b{folder.name}/", tree, re.MULTILINE), folder.name
            line = next((line for line in tree.splitlines() if line.startswith(f"      {folder.name}/  ")), tree)
            inner = [path.parent.name for path in folder.glob("*/__init__.py")]
            assert not [name for name in inner if f"{name}/" not in line], f"{folder.name}: {inner}"
    shown = "\n".join(f"    {' · '.join(sorted(names))}" for names in reversed(LAYERS))
    lines = [
        "    " + " · ".join(sorted(line.strip().split(" · "))) for line in page.splitlines() if line.startswith("    ")
    ]
    assert shown in "\n".join(lines)
