"""Files that are not UTF-8: read by their mark, by the user's word, or as detected; else refused with the readings."""

import codecs
import gzip
import json

import pytest

from petrun.data.formats.encoding import decode_text
from petrun.data.formats.source import read_source
from petrun.data.formats.table import read_records
from petrun.errors import ConfigError, DataError
from tests.data.loading import read_examples

CHINESE = ["这部电影非常好看", "剧情拖沓,看到一半就睡着了", "演员的表现令人难忘", "服务态度很差,不会再来了"]
TRADITIONAL = ["這部電影非常好看", "劇情拖沓,我看到一半就睡著了", "服務態度很差,不會再來了", "今天的新聞報導了選舉結果"]
JAPANESE = [
    "この映画はとても面白かったです",
    "話が長くて途中で寝てしまった",
    "明日は東京に行く予定です",
    "株価が大きく下がりました",
]
KOREAN = [
    "이 영화는 정말 재미있었습니다",
    "이야기가 너무 길어서 잠이 들었다",
    "내일은 서울에 갈 예정입니다",
    "날씨가 아주 좋네요",
]
RUSSIAN = [
    "Этот фильм мне очень понравился",
    "Скучная история, я заснул",
    "Завтра мы поедем в Москву",
    "Акции сильно упали",
]
POLISH = [
    "Ten film był bardzo śmieszny",
    "Nudna opowieść, zasnąłem",
    "Pogoda jest dziś świetna",
    "Obsługa była zła, więcej nie przyjdę",
]


def table(texts):
    """As a spreadsheet writes it."""
    return "text,label\r\n" + "".join(f'"{text}",{i % 2}\r\n' for i, text in enumerate(texts))


def rows(path, **given):
    return [row["text"] for row in read_records(path, **given).rows]


@pytest.mark.parametrize(
    ("texts", "written", "read"),
    [
        (CHINESE, "gbk", "gb18030"),
        (CHINESE * 3000, "gb18030", "gb18030"),
        ([*CHINESE, "𠮷野家的饭很好吃"], "gb18030", "gb18030"),
        (TRADITIONAL, "cp950", "big5hkscs"),
        (JAPANESE, "cp932", "cp932"),
        (JAPANESE, "euc_jp", "euc_jp"),
        (KOREAN, "cp949", "cp949"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8_r", "koi8_r"),
    ],
)
def test_detected(write, texts, written, read):
    path = write("a.csv", table(texts).encode(written))
    records = read_records(path)
    assert [row["text"] for row in records.rows] == texts
    assert records.notes == (
        f"{path}: is not UTF-8; read as {read} (another: --set data.encoding=NAME; of petrun data: --encoding NAME)",
    )
    # The same bytes, the same answer.
    assert {decode_text(read_source(path)).note for _ in range(3)} == set(records.notes)


def test_a_late_line_counts(write):
    """What lies behind megabytes of ASCII decides as well."""
    path = write("a.csv", b"text,label\n" + b"plain words,0\n" * 200_000 + table(CHINESE)[12:].encode("gbk"))
    assert rows(path)[-4:] == CHINESE


@pytest.mark.parametrize("written", ["utf-16", "utf-32", "utf-8-sig"])
def test_by_the_mark(write, written):
    path = write("a.csv", table(CHINESE).encode(written))
    records = read_records(path)
    assert [row["text"] for row in records.rows] == CHINESE and records.columns == ("text", "label")
    assert bool(records.notes) == (written != "utf-8-sig")
    big = write("b.csv", codecs.BOM_UTF16_BE + table(CHINESE).encode("utf-16-be"))
    assert rows(big) == CHINESE


def test_by_the_users_word(write):
    assert rows(write("a.csv", table(CHINESE).encode("utf-16-le")), encoding="utf-16-le") == CHINESE
    assert rows(write("b.csv", table(POLISH).encode("cp1250")), encoding="windows-1250") == POLISH
    # GBK files of today hold characters of GB18030.
    assert rows(write("c.csv", table(["𠮷野家"]).encode("gb18030")), encoding="GBK") == ["𠮷野家"]
    assert rows(write("d.csv.gz", gzip.compress(table(CHINESE).encode("gbk")))) == CHINESE
    with pytest.raises(ConfigError, match=r"data\.encoding: unknown encoding 'gb18o30'") as caught:
        rows(write("e.csv", table(CHINESE)), encoding="gb18o30")
    assert "gb18030" in caught.value.hint
    with pytest.raises(ConfigError, match="unknown encoding 'base64'"):
        rows(write("e.csv", table(CHINESE)), encoding="base64")
    with pytest.raises(DataError, match=r"line \d: byte 0x\w\w is not cp932"):
        rows(write("f.csv", table(CHINESE).encode("gbk")), encoding="cp932")


def test_chinese_utf16_without_its_mark(write):
    with pytest.raises(DataError, match="looks like UTF-16 without a byte order mark") as caught:
        rows(write("a.txt", "\n".join(CHINESE).encode("utf-16-le")))
    assert CHINESE[0] in caught.value.hint and caught.value.hint.endswith("--set data.encoding=utf-16-le")


def test_a_word_against_the_bytes(write):
    """A wrong word would make garbage of a good file without an error."""
    marked = write("a.csv", table(CHINESE).encode("utf-8-sig"))
    with pytest.raises(DataError, match=r"begins with the byte order mark of utf-8, but data\.encoding is gbk"):
        rows(marked, encoding="gbk")
    notes = read_records(write("b.csv", table(CHINESE * 2)), encoding="latin-1").notes
    assert "although all its bytes are valid UTF-8" in notes[0]


def test_western_letters_are_refused_where_tables_differ(write):
    path = write("a.csv", table(["très bien, à la plage", "déjà vu", "ça va, l'été dernier"]).encode("cp1252"))
    with pytest.raises(DataError, match="the encoding cannot be told for certain") as caught:
        rows(path)
    assert "cp1252 '\"très bien, à la plage\",0'" in caught.value.hint and "iconv" not in caught.value.hint
    assert rows(path, encoding="cp1252")[0] == "très bien, à la plage"


def test_the_cache_knows_the_encoding(write, tmp_path, bpe):
    """The same bytes read in two ways are two entries; the note is kept with the rows."""
    path = write("a.csv", table(CHINESE).encode("gbk"))

    def load(**given):
        return read_examples(path, task=None, tokenizer=bpe, seq_len=64, cache_dir=tmp_path / "cache", **given)

    first, other, again = load(), load(encoding="cp949"), load()
    assert first.digest == again.digest != other.digest
    assert first.notes == again.notes and "gb18030" in again.notes[0]
    assert first.flat["input_ids"].tolist() == again.flat["input_ids"].tolist() != other.flat["input_ids"].tolist()
    written = write("utf8.csv", table(CHINESE))
    same = read_examples(written, task=None, tokenizer=bpe, seq_len=64)
    assert same.flat["input_ids"].tolist() == first.flat["input_ids"].tolist()


def test_json_in_gbk(write):
    text = "".join(json.dumps({"text": text, "label": 1}, ensure_ascii=False) + "\n" for text in CHINESE)
    assert rows(write("a.jsonl", text.encode("gbk"))) == CHINESE
    whole = json.dumps([{"text": text} for text in CHINESE * 2000], ensure_ascii=False)
    assert rows(write("a.json", whole.encode("gbk"))) == CHINESE * 2000
