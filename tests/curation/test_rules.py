"""Each rule on rows that break it and on rows that only look as if they did."""

import pytest

pytest.importorskip("ftfy")
from petrun.config.commands.data import rule_choices
from petrun.curation.parts import RowParts
from petrun.curation.rules import BITEXT, INSTRUCTIONS, RULES, Limits, first_finding, numbers_of, rules_for, units

LONG = (
    "The committee met on Monday to discuss the budget of the coming year and agreed on a plan for every department. "
)
TEXT = " ".join(f"word{i} thing{i * 7}" for i in range(40))


def finding(question, answer, kind=INSTRUCTIONS, **limits):
    limits = Limits(kind=kind, **limits)
    return first_finding(RowParts(question=question, answer=answer), limits, rules_for(limits))


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Say hi", "  \n", "empty"),
        ("Say hi", "SAY  hi", "equal"),
        ("Say hi", "x" * 20_001, "long"),
        ("Say hi", "schÃ¶n und grÃ¼n", "mojibake"),
        ("Say hi", "lost \ufffd here", "mojibake"),
        ("Say hi", "bell\x07", "control"),
        ("Say hi", "Hello<br/>there", "html"),
        ("Say hi", "Tom &amp; Jerry", "html"),
        ("Say hi", "ha" * 30, "repeats"),
        ("Say hi", "I do not know that. " * 20, "repeats"),
        ("Say hi", "我不知道这个。" * 20, "repeats"),
    ],
)
def test_rows_that_break_a_rule(question, answer, reason):
    assert finding(question, answer)[0] == reason


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("2 + 2 =", "4"),
        ("", "plain text has no question"),
        ("Write HTML", "```html\n<div>Hi &amp; bye</div>\n```"),
        ("Which operator?", "Use a < b and a & b, or `<br>`."),
        ("Draw a line", "-" * 80),
        ("Draw a table", "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 5),
        ("Übersetze", "Die Straße ist schön. Ça va très bien."),
        ("翻译", "今天天气很好，我们一起去公园散步，看见了很多人。"),
        ("Write", TEXT),
        ("Write", LONG),
        ("Number", "100000000000000000000000000000"),
    ],
)
def test_rows_that_pass(question, answer):
    assert finding(question, answer) is None


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("", "你好", "empty"),
        ("Hello world", "hello world", "equal"),
        ("one two three four five six seven eight nine ten eleven", "一二三", "ratio"),
        ("12 34 56 !! 78", "12 34 56 78 你好", "letters"),
        ("We sold 1,200 chairs", "我们卖了1300把椅子", "numbers"),
        ("See https://a.example/x today", "请看 https://b.example/x 今天", "urls"),
    ],
)
def test_bitext_that_breaks_a_rule(source, target, reason):
    assert finding(source, target, BITEXT)[0] == reason


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("We sold 1,200 chairs in 2019.", "我们在2019年卖了1200把椅子。"),
        ("Price: 3.50 euros (see https://a.example/x.)", "Preis: 3,50 Euro (siehe https://a.example/x)"),
        ("The meeting is on Monday morning.", "会议在星期一早上。"),
        ("Yes.", "はい、そうです。"),
    ],
)
def test_bitext_that_passes(source, target):
    assert finding(source, target, BITEXT) is None


def test_scripts_and_languages_are_those_of_the_sides():
    pytest.importorskip("py3langid")
    from petrun.curation.languages import LanguageTeller

    limits = {"languages": ("en", "zh"), "tell": LanguageTeller()}
    assert finding("Good morning to all of you", "大家早上好", BITEXT, **limits) is None
    assert finding("Good morning", "Guten Morgen", BITEXT, **limits)[0] == "script"
    assert (
        finding("Guten Morgen, wie geht es Ihnen heute?", "早上好，你今天怎么样？", BITEXT, **limits)[0] == "language"
    )
    assert (
        finding("any question", "Die Lieferung wird am Montag erwartet.", **{**limits, "languages": ("en",)})[0]
        == "language"
    )


def test_limits_are_the_users():
    assert finding("q", "ok", min_characters=3) == ("short", "the answer has 2 characters, fewer than 3")
    assert finding("a b c d e f g h i j", "一二三四五", BITEXT, max_ratio=1.5)[0] == "ratio"


def test_units_are_words_or_characters():
    assert units("Hello, 世界 don't สวัสดี") == ["Hello", "世", "界", "don", "t", *"สวัสดี"]


def test_numbers_are_compared_by_their_digits():
    assert numbers_of("1,200 and 1.200 and １２００") == {"1200": 3}
    assert numbers_of("from 3 to 03, 2.5") == {"3": 2, "25": 1}


def test_names_are_unique():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert rule_choices() == [rule.name for rule in RULES]
    assert [rule.name for rule in rules_for(Limits(), ("html",))] == [
        "empty", "equal", "short", "long", "mojibake", "control", "repeats",
    ]  # fmt: skip
