"""Neighbouring fields of one type are given by keyword: two texts, or two numbers, in the wrong order are no error to anything."""

import ast
from itertools import pairwise
from pathlib import Path

from tests.test_layers import FILES, where

# Class -> why its fields may be given by position.
EXCEPTIONS: dict[str, str] = {}


def dataclasses_of(tree):
    """(class, whether it is keyword-only) for every dataclass and NamedTuple."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called).rpartition(".")[2] == "dataclass":
                words = {k.arg: ast.unparse(k.value) for k in getattr(decorator, "keywords", [])}
                yield node, words.get("kw_only") == "True"


def positional_twins(node):
    """Pairs of neighbouring fields with one annotation that can both be given by position."""
    fields = []
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or "ClassVar" in ast.unparse(item.annotation):
            continue
        if ast.unparse(item.annotation).rpartition(".")[2] == "KW_ONLY":
            break
        value = item.value
        words = {k.arg: ast.unparse(k.value) for k in value.keywords} if isinstance(value, ast.Call) else {}
        if words.get("init") != "False" and words.get("kw_only") != "True":
            fields.append((item.target.id, ast.unparse(item.annotation)))
    return [(a, b) for (a, one), (b, other) in pairwise(fields) if one == other]


def test_neighbours_of_one_type_are_keyword_only():
    wrong, seen = [], 0
    for path in FILES:
        for node, keyword_only in dataclasses_of(ast.parse(Path(path).read_text(encoding="utf-8"))):
            seen += 1
            twins = [] if keyword_only or node.name in EXCEPTIONS else positional_twins(node)
            wrong += [f"{where(path)}: {node.name}.{a} and .{b}" for a, b in twins]
    assert seen > 100
    assert not wrong, "give these dataclasses kw_only=True:\n" + "\n".join(wrong)


def test_the_check_sees_what_it_is_for():
    code = "@dataclass(frozen=True)\nclass A:\n    n: int\n    text: str\n    reference: str = ''\n"
    ((node, keyword_only),) = dataclasses_of(ast.parse(code))
    assert not keyword_only and positional_twins(node) == [("text", "reference")]
    ((node, keyword_only),) = dataclasses_of(ast.parse(code.replace("frozen=True", "frozen=True, kw_only=True")))
    assert keyword_only
