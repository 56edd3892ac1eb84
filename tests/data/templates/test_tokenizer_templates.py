"""Which of a folder's chat templates a row gets, held against transformers."""

import json

import pytest

from petrun.checkpoint.hf_config import write_companions
from petrun.data.templates.template import Template, run_template
from petrun.data.templates.tokenizer_templates import read_chat_template
from petrun.data.tokenizers.tokenizer import load_tokenizer
from petrun.errors import DataError
from tests.data.conftest import byte_level, save
from tests.data.loading import read_examples

PLAIN = "\n{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
TOOLS = "  {% if true %}\n{{ tools | tojson }}{% endif %}\n" + PLAIN + "   "
FILES = {
    "two named in the settings": {"settings": {"default": PLAIN, "tool_use": TOOLS}},
    "a file beside the settings": {"settings": PLAIN, "default": TOOLS},
    "files": {"default": PLAIN, "tool_use": TOOLS},
    "files before the settings": {"settings": {"default": "x", "tool_use": "y"}, "default": PLAIN, "tool_use": TOOLS},
    "a file ends named ones": {
        "settings": {"default": "x", "tool_use": "y"},
        "default": "{% if tools %}x{% endif %}" + PLAIN,
    },
    "another name": {"default": "{% if tools %}x{% endif %}" + PLAIN, "rag": TOOLS},
}
ROWS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "tools": [{"name": "f"}]},
]


def fill(place, settings=None, **files):
    named = (
        [{"name": name, "template": text} for name, text in settings.items()]
        if isinstance(settings, dict)
        else settings
    )
    more = {"chat_template": named} if named else {}
    save(place, byte_level(), tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>", **more)
    for name, text in files.items():
        path = place / ("chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return place


@pytest.mark.parametrize("name", FILES)
def test_the_template_is_the_one_that_transformers_chooses(name, tmp_path, write):
    transformers = pytest.importorskip("transformers")
    place = fill(tmp_path / "tokenizer", **FILES[name])
    theirs = transformers.AutoTokenizer.from_pretrained(place)
    tokenizer = load_tokenizer(place)
    for row in ROWS:
        expected = theirs.apply_chat_template(row["messages"], tools=row.get("tools"), return_dict=True)["input_ids"]
        path = write("row.jsonl", [row])
        if "tools" in row and "tools" not in theirs.get_chat_template(tools=row["tools"]):
            # Of transformers the template gets no tools, and nobody is told.
            with pytest.raises(DataError, match="does not read tools"):
                read_examples(path, task=None, tokenizer=tokenizer, seq_len=500)
            continue
        found = read_examples(path, task=None, tokenizer=tokenizer, seq_len=500)
        assert found[0].input_ids.tolist() == expected


def test_both_templates_render_as_they_are(tmp_path):
    """White space at the seams stays, and a delta that carries the text needs no folder."""
    place = fill(tmp_path / "tokenizer", **FILES["files"])
    both = Template(name="delta", text=read_chat_template(place, {}, lambda path: path.read_text()))
    for tools, text in ((None, PLAIN), ([{"name": "f"}], TOOLS)):
        values = {"messages": ROWS[0]["messages"], "tools": tools}
        assert run_template(both, values, "f", "") == run_template(Template(name="one", text=text), values, "f", "")


def test_a_template_for_tools_alone(tmp_path, write):
    place = fill(tmp_path / "tokenizer", tool_use=TOOLS)
    rows = read_examples(write("b.jsonl", ROWS[1:]), task=None, tokenizer=load_tokenizer(place), seq_len=500)
    assert len(rows) == 1
    with pytest.raises(DataError, match="the row has no tools, and no chat template is named 'default'"):
        read_examples(write("a.jsonl", ROWS[:1]), task=None, tokenizer=load_tokenizer(place), seq_len=500)


def test_no_template_to_use(tmp_path):
    place = fill(tmp_path / "tokenizer", settings={"rag": PLAIN})
    with pytest.raises(DataError, match="none of the chat templates is named 'default'") as caught:
        load_tokenizer(place)
    assert caught.value.hint == "Named: rag"
    (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": 5}))
    with pytest.raises(DataError, match="chat_template is neither text nor a list of named templates"):
        load_tokenizer(place)


def test_merged_folders_keep_them(tmp_path):
    place = fill(tmp_path / "base", **FILES["files"])
    (tmp_path / "merged").mkdir()
    write_companions(tmp_path / "merged", {"model_type": "llama"}, place)
    for name in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja", "tokenizer_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (place / name).read_bytes()
