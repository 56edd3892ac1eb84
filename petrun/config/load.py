"""Recipe + flags + KEY=VALUE -> RunConfig, with the origin of every value. The only reader of recipes and of the environment.

Precedence, last wins: default, embedded recipe, recipe, flag, --set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from petrun.config.options import Flags
from petrun.config.resolved import Resolved, as_typed
from petrun.config.schema import RunConfig
from petrun.config.section import section_of
from petrun.config.shorthand import join_rows, split_shares
from petrun.data.formats.slices import split_slice
from petrun.errors import ConfigError, did_you_mean
from petrun.typing import JsonObject

_NOT_SETTINGS = ("origins", "petrun_version", "started_in", "description")
_PATHS = ("model.base", "model.config", "data.path", "data.eval_path", "data.template", "init_delta")
_SHOW = "`petrun recipes show NAME` prints a complete one."


class _StrictLoader(yaml.SafeLoader):
    """YAML without Python tags that refuses a key written twice."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, list | dict):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def cache_folder() -> Path:
    """petrun's folder under the user's cache: tokenised rows, compiled kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "petrun"


def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """`family/name` of every shipped recipe, sorted."""
    root = recipes_folder()
    return sorted(str(p.relative_to(root).with_suffix("")) for p in root.glob("*/*.yaml"))


def find_recipe(name: str) -> Path:
    """A path to a YAML file, or the name of a shipped recipe (`bert/sst2-lora`)."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = recipes_folder() / f"{name.removesuffix('.yaml')}.yaml"
    if shipped.is_file() and shipped.resolve().is_relative_to(recipes_folder().resolve()):
        return shipped
    if path.is_dir():
        raise ConfigError(f"{name} is a folder, not a recipe", hint="Give the YAML file in it.")
    raise ConfigError(
        f"no recipe {name}: neither a file nor a shipped recipe. {did_you_mean(name, recipe_names())}".rstrip(),
        hint="`petrun recipes ls` lists them.",
    )


def read_recipe(path: Path) -> JsonObject:
    """A YAML recipe as {dotted key: value}. Raises ConfigError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"recipe {path} is not UTF-8 text (byte {error.start})", hint="A recipe is a YAML file, saved as UTF-8."
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "it is not valid YAML"
        raise ConfigError(f"recipe {where}: {problem}") from error
    if content is None:
        raise ConfigError(f"recipe {path} is empty", hint=_SHOW)
    if not isinstance(content, dict):
        raise ConfigError(f"recipe {path} must be a mapping of sections, not a {type(content).__name__}", hint=_SHOW)
    flat = _flatten({k: v for k, v in content.items() if k not in _NOT_SETTINGS}, str(path))
    return {key: value for key, value in flat.items() if value is not None}


def as_begun(resolved: Resolved, run_yaml: Path) -> Resolved:
    """Settings of a run that is resumed, with the origins that they had when it began; its files are also looked for from the folder that
    it was started in."""
    content = yaml.load(run_yaml.read_text(encoding="utf-8"), Loader=_StrictLoader)
    noted, folder = content.get("origins"), content.get("started_in")
    noted = noted if isinstance(noted, dict) else {}
    own = f"recipe {run_yaml}"
    for key in _PATHS if isinstance(folder, str) else ():
        value = resolved.value(key)
        if value is not None and resolved.origins.get(key) == own:
            resolved = resolved.settle({key: _found_from(value, Path(folder))})
    origins = {key: str(noted.get(key, own)) if origin == own else origin for key, origin in resolved.origins.items()}
    return Resolved(resolved.config, {key: origin for key, origin in origins.items() if origin != "default"})


def read_run_yaml(path: Path) -> tuple[JsonObject, dict[str, str]]:
    """Return (dotted key -> value, dotted key -> origin) of a run's settings. Raises ConfigError naming file and line."""
    read_recipe(path)
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    noted = content.get("origins")
    values = _flatten({key: value for key, value in content.items() if key not in _NOT_SETTINGS}, str(path))
    return values, {key: str(origin) for key, origin in noted.items()} if isinstance(noted, dict) else {}


def _found_from(value: object, folder: Path) -> object:
    """A path that leads nowhere from the current folder, but somewhere from `folder`, is meant from there."""

    def find(path: str) -> str:
        candidate = folder / path
        # Of `rows.jsonl#500` the file; only data files are named so.
        return str(candidate) if not split_slice(path)[0].exists() and split_slice(candidate)[0].exists() else path

    return tuple(map(find, value)) if isinstance(value, tuple) else find(str(value))


def _flatten(tree: Mapping[object, object], where: str) -> JsonObject:
    """One level of sections; deeper mappings are values (delta.rank_pattern)."""
    flat: JsonObject = {}
    for name, value in tree.items():
        if not isinstance(name, str):
            raise ConfigError(f"{where}: key {name!r} must be a word")
        if isinstance(value, Mapping) and "." not in name:
            for key, inner in value.items():
                flat[f"{name}.{key}"] = inner
        else:
            flat[name] = value
    return flat


def parse_assignment(text: str) -> tuple[str, object]:
    """`section.key=VALUE`, VALUE in YAML ([a, b] for lists); what is not YAML is the plain string."""
    key, sign, value = text.partition("=")
    key = key.strip()
    if not sign or not key:
        raise ConfigError(f"--set {text} is not of the form KEY=VALUE", hint="Example: --set optim.beta2=0.95")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value
    if isinstance(parsed, str):
        # Unquoted text is taken as typed: YAML would strip it.
        return key, parsed if value[:1] in "'\"" else value
    return key, parsed


def load_run_config(
    recipe: str | None,
    flags: Flags,
    sets: Sequence[str] = (),
    embedded: Path | None = None,
) -> Resolved:
    """Merge all sources and validate. `flags`: dotted key -> (flag as typed, value).

    `embedded`: recipe of the embedded task, under everything else. Raises ConfigError with every problem found.
    """
    values: JsonObject = {}
    origins: dict[str, str] = {}
    mappings = _mapping_keys()

    def put(source: Mapping[str, object], origin: str) -> None:
        for key, value in source.items():
            whole = next((m for m in mappings if key.startswith(f"{m}.")), None)
            if whole is not None:
                # data.columns.text=NAME sets one entry of the mapping and keeps the others.
                before = values.get(whole)
                value = {**(before if isinstance(before, dict) else {}), key.removeprefix(f"{whole}."): value}
            values[whole or key] = value
            origins[whole or key] = origin

    assigned = [parse_assignment(text) for text in sets]
    if recipe is not None:
        path = find_recipe(recipe)
        content = read_recipe(path)
        asked = dict(assigned).get("algo", flags["algo"][1] if "algo" in flags else None)
        if asked not in (None, content.get("algo", "lora")):
            # Another algorithm than the recipe's: the recipe's delta settings are not its.
            content = {key: value for key, value in content.items() if not key.startswith("delta.")}
        put(content, f"recipe {path}")
    for key, (flag, value) in flags.items():
        put({key: value}, flag)
    for key, value in assigned:
        put({key: value}, f"--set {key}")
    join_rows(values, origins)
    split_shares(values, origins)
    if embedded is not None and not any(k in values for k in ("model.base", "model.family", "data.path")):
        for path in (*(_tuned_for(values.get("algo", "lora")) if recipe is None else ()), embedded):
            for key, value in read_recipe(path).items():
                if key not in values and key != "algo":
                    put({key: value}, "embedded recipe")
    typed = [origins[key] for key in ("train.steps", "train.epochs") if origins.get(key, "").startswith("--")]
    if len(typed) == 2:
        raise ConfigError(f"{' and '.join(typed)}: a run is as long as one of them says", hint="Give one of them.")
    return Resolved(validate(values, origins), origins)


def _tuned_for(algo: object) -> tuple[Path, ...]:
    """The shipped recipe of an algorithm for the embedded task; of a composition, its first part's."""
    path = recipes_folder() / "embedded" / f"{str(algo).partition('+')[0].strip()}.yaml"
    return (path,) if path.is_file() else ()


def validate(values: Mapping[str, object], origins: Mapping[str, str]) -> RunConfig:
    """Dotted values -> RunConfig, every problem named as the user typed it."""
    from petrun.delta import find_method

    asked = values.get("algo", "lora")
    try:
        if not isinstance(asked, str):
            raise ConfigError(f"unknown algorithm {asked!r}. Give a name, or several joined by +")
        found = find_method(asked)
    except ConfigError as error:
        raise ConfigError(f"{as_typed('algo', origins)}: {error.message}", hint=error.hint) from error
    algo, method = found.name, found.config
    values = {**values, "algo": algo} if "algo" in values else values
    known = known_keys(method)
    tree: JsonObject = {"delta": {}}
    problems = []
    for key, value in values.items():
        if key not in known:
            extra = f" for --algo {algo}" if key.startswith("delta.") else ""
            problems.append(f"{origins.get(key, 'settings')}: unknown key {key}{extra}. {did_you_mean(key, known)}")
            continue
        section, _, leaf = key.partition(".")
        if leaf:
            tree.setdefault(section, {})[leaf] = value
        else:
            tree[section] = value
    if problems:
        raise ConfigError("\n".join(problems))
    try:
        delta = method.model_validate(tree.pop("delta"))
    except ValidationError as error:
        problems += _explain(error, origins, "delta.")
    try:
        config = RunConfig.model_validate({**tree, "delta": method()})
    except ValidationError as error:
        problems += _explain(error, origins)
    if problems:
        raise ConfigError("\n".join(problems))
    return config.model_copy(update={"delta": delta})


def known_keys(method: type[BaseModel]) -> list[str]:
    """Every dotted key a run accepts with this algorithm."""
    keys = []
    for name, info in RunConfig.model_fields.items():
        if name == "delta":
            keys += [f"delta.{leaf}" for leaf in method.model_fields]
        elif kind := section_of(info):
            keys += [f"{name}.{leaf}" for leaf in kind.model_fields]
        else:
            keys.append(name)
    return keys


def _mapping_keys() -> list[str]:
    """Keys whose value is a mapping, of every algorithm: `data.columns`, `model.kwargs`, `delta.rank_pattern`."""
    from petrun.delta import METHODS

    models: list[tuple[str, type[BaseModel]]] = [("delta", method.config) for method in METHODS.values()]
    for name, info in RunConfig.model_fields.items():
        if kind := section_of(info):
            models.append((name, kind))
    return sorted(
        {
            f"{name}.{leaf}"
            for name, kind in models
            for leaf, info in kind.model_fields.items()
            if get_origin(info.annotation) is dict
        }
    )


def _explain(error: ValidationError, origins: Mapping[str, str], prefix: str = "") -> list[str]:
    lines = []
    for item in error.errors():
        # Only the first parts name a key; what follows is a position inside a list or a union's branch.
        depth = 1 if prefix or not _is_section(item["loc"]) else 2
        key = prefix + ".".join(str(part) for part in item["loc"][:depth])
        given = item["input"]
        text = _phrase(item)
        expected = str(item.get("ctx", {}).get("expected", ""))
        near = (
            did_you_mean(str(given), [e.strip("' ") for e in expected.replace(" or ", ",").split(",")])
            if expected
            else ""
        )
        shown = repr(given) if len(repr(given)) <= 60 else f"{repr(given)[:57]}..."
        lines.append(f"{as_typed(key, origins)}: {shown} is not valid: {text}. {near}".strip())
    return lines


_PHRASES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping, such as {{a: b}}",
}


def _phrase(item: ErrorDetails) -> str:
    """What a pydantic error asks for, in a user's words."""
    kind = str(item["type"])
    if kind.startswith(("int_", "float_", "bool_")):
        what = {"int": "a whole number", "float": "a number", "bool": "true or false"}[kind.partition("_")[0]]
        return f"must be {what}"
    if kind in _PHRASES:
        return _PHRASES[kind].format(**item.get("ctx", {}))
    text = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return text[:1].lower() + text[1:]


def _is_section(loc: tuple[int | str, ...]) -> bool:
    info = RunConfig.model_fields.get(str(loc[0])) if loc else None
    return bool(info and section_of(info))


def dump_run(resolved: Resolved, version: str) -> str:
    """run.yaml: every value, then where it came from. The file is itself a recipe."""
    values = resolved.config.model_dump(mode="json", exclude_none=False)
    origins = {}
    for section, content in values.items():
        for key in [f"{section}.{leaf}" for leaf in content] if isinstance(content, dict) else [section]:
            origins[key] = resolved.origins.get(key, "default")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    more = {"origins": origins, "petrun_version": version, "started_in": os.getcwd()}
    text += yaml.safe_dump(more, sort_keys=False, allow_unicode=True)
    return text


class _PlainDumper(yaml.SafeDumper):
    """YAML for people: text of several lines stands as it is, and nothing refers to something else in the file."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_PlainDumper.add_representer(str, _represent_text)


def to_yaml(documents: Sequence[JsonObject]) -> str:
    """Documents of one YAML file, keys in their order."""
    return yaml.dump_all(documents, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=1000)


def environment(name: str) -> str | None:
    """A variable of the environment that the user named; None where it is not set."""
    return os.environ.get(name)
