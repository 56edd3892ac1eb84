"""The table of row kinds: what a record says is what the columns of a file become."""

import pytest

from petrun.data.rows.columns import choose_schema, row_schemas, tasks_of
from petrun.data.rows.kinds import CANONICAL, KNOWN_COLUMNS, ROW_KINDS, row_kind, template_column
from petrun.data.templates.find_template import BUILTIN

EVERY = [(kind, columns) for kind in ROW_KINDS for columns in kind.columns]


@pytest.mark.parametrize(("kind", "columns"), EVERY, ids=lambda value: getattr(value, "name", None))
def test_the_columns_of_a_record_make_its_rows(kind, columns):
    names = {name: name for name in columns.values()} | ({"label": "label"} if kind.labelled else {})
    schema = row_schemas(names)[0]
    assert schema.kind is kind and dict(columns).items() <= dict(schema.columns).items()
    for task in kind.tasks:
        assert choose_schema(names, task, "f").kind is kind


@pytest.mark.parametrize("kind", [kind for kind in ROW_KINDS if kind.lone_prompts], ids=lambda kind: kind.name)
def test_a_prompt_alone_can_be_predicted(kind):
    for name in kind.lone_prompts:
        assert row_schemas({name: name}) == []
        (schema,) = row_schemas({name: name}, need_target=False)
        assert (schema.kind, schema.columns) == (kind, {"source": name})


def test_a_label_stands_for_classes():
    for kind in ROW_KINDS:
        names = {name: name for name in kind.columns[0].values()}
        assert tasks_of(names, {})[: len(kind.unlabelled_tasks)] == list(kind.unlabelled_tasks)
        if kind.labelled:
            label = True if kind.true_or_false else 1
            assert tasks_of({**names, "label": "label"}, {"label": label})[0] == kind.labelled_task


def test_answers_are_marked_by_true_and_false_alone():
    """Beside another label, such as a class, a prompt and its completion are a row of instruct."""
    names = {name: name for name in ("prompt", "completion", "label")}
    assert (
        tasks_of(names, {"label": False})[0] == "preference" and tasks_of(names, {"label": "True"})[0] == "preference"
    )
    assert tasks_of(names, {"label": 1}) == ["instruct"] and tasks_of(names, {"label": "good"}) == ["instruct"]


def test_records_agree_with_what_they_name():
    assert len({kind.name for kind in ROW_KINDS}) == len(ROW_KINDS)
    assert set(CANONICAL) <= KNOWN_COLUMNS
    for kind in ROW_KINDS:
        assert row_kind(kind.name) is kind and template_column(kind.name) == kind.template_column
        assert kind.default_template in ("", *BUILTIN)
        assert not kind.as_messages or row_kind(kind.as_messages).conversation
    assert template_column(None) == template_column("arrays") == ""
