"""Rows of every form, and files of them, for the tests of this folder."""

import json

from petrun.curation.reading import DataRow

MIXED = [
    {"instruction": "Say hi", "input": "", "output": "Hi!", "id": 1},
    {"instruction": "Add", "input": "1 2", "output": "3", "id": 2},
    {"prompt": "x?", "completion": ["y"]},
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "很好"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    },
    {
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"},
            {"from": "human", "value": "c"},
            {"from": "gpt", "value": "d"},
        ]
    },
]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def row(cells, line=1):
    return DataRow(file="rows.jsonl", line=line, cells=cells)
