"""MindPet's reading of YAML files."""

from __future__ import annotations

from pathlib import Path

import yaml

from petrun.mindpet.utils.exceptions import LinkPathError, ReadYamlFileError, UnexpectedError


def read_yaml_file(path: Path) -> object:
    """Return the content of a YAML file, which is opened for reading only.

    Raises: ReadYamlFileError: the file is missing or a link. UnexpectedError: it cannot be read, is not YAML, or has a key twice.
    """
    try:
        if path.is_symlink():
            raise LinkPathError(f"{path} is a link")
        text = path.read_text(encoding="utf-8")
        _require_unique_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except (FileNotFoundError, LinkPathError) as error:
        raise ReadYamlFileError(f"cannot read the configuration {path}: {error}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnexpectedError(f"cannot read the configuration {path}: {error}") from error


def _require_unique_keys(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _require_unique_keys(item)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key.value} stands twice", key.start_mark)
        seen.add(str(key.value))
        _require_unique_keys(value)
