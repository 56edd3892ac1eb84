"""The names that programs import: petrun's own exports, and the import paths that earlier documentation named."""

import subprocess
import sys

import pytest

import petrun
from petrun.commands import export
from petrun.inference.generation import session
from tests.conftest import ROOT


def test_petrun_exports_what_a_program_needs():
    assert petrun.Session is session.Session and petrun.Decoding is session.Decoding
    assert petrun.export_peft is export.run
    assert {"Session", "Decoding", "export_peft"} <= set(dir(petrun))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'petrun' has no attribute 'Sesion'"):
        petrun.Sesion  # noqa: B018


def test_importing_petrun_imports_nothing_else():
    code = "import sys, petrun; print([m for m in ('mindspore', 'numpy', 'pydantic', 'petrun.inference') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_import_paths_of_earlier_documentation_go_on():
    from petrun.runs.export import run
    from petrun.runs.session import Ask, Decoding, Session

    assert (Session, Decoding, run) == (petrun.Session, petrun.Decoding, petrun.export_peft)
    assert Ask is session.Ask


def test_import_paths_of_strategies_go_on():
    from petrun.tensors import Layout, TensorLayout, open_sharded
    from petrun.tensors.sharded import strategy
    from petrun.tensors.strategy import read_strategy, require_complete, write_strategy

    assert Layout is TensorLayout and callable(open_sharded)
    assert (read_strategy, require_complete, write_strategy) == (
        strategy.read_strategy,
        strategy.require_complete,
        strategy.write_strategy,
    )


def test_documented_names_of_a_session_go_on():
    assert session.Ask is session.PromptRequest and session.Session.pieces is session.Session.chunks
