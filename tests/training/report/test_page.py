"""The page holds what the run folders hold, loads nothing, escapes texts, and a browser shows it without complaint."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from petrun.training.report.page import differences, page, snippet, summary
from petrun.training.run_record import read_run
from tests.training.report.runs import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def two(tmp_path):
    return [read_run(write_run(tmp_path / "one")), read_run(write_run(tmp_path / "two", lr=0.2, finished=False))]


class Tags(HTMLParser):
    """Collects the elements of a page, and that all that were opened are closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_runs_nothing(two):
    text = page(two)
    tags = Tags(text)
    assert not tags.open
    assert not [tag for tag, _ in tags.found if tag in ("script", "img", "iframe", "object")]
    assert {attrs.get("href", "data:,") for _, attrs in tags.found} == {"data:,"}
    assert "url(" not in text and "http" not in text and "@import" not in text
    assert "&lt;script&gt;alert(&#39;é&#39;)&lt;/script&gt;" in text


def test_what_differs_is_said_first(two):
    assert differences(two) == [("optim.lr", ["0.1", "0.2"])]
    text = page(two)
    assert text.index("Differences in settings") < text.index("Curves over the steps")
    assert "Differences in settings" not in page(two[:1])


def test_runs_are_laid_over_each_other_and_a_run_at_work_has_no_receipt(two):
    text = page(two)
    loss = re.search(r'aria-label="training loss.*?</svg>', text, re.DOTALL)[0]
    assert loss.count("<polyline") == 2 and 'class="line s0"' in loss and 'class="line s1"' in loss
    assert "not finished, at step 6" in text and "it has no receipt yet" in text
    for title in ("learning rate", "gradient norm", "tokens per second", "memory in MiB", "evaluation: exact_match"):
        assert title in text
    assert "loss 3 to 0.25 on the same 2 training rows" in text and "9 read, 8 used, 1 empty" in text


def test_a_summary_has_the_figures_of_the_results(two):
    found = dict(summary(two[0]))
    assert found["trained"] == "10 of 1,000 values (1.000%)" and found["delta"] == "2.0 KiB"
    assert (found["time"], found["state"], found["base"]) == ("61 s", "finished", "the embedded base")
    assert found["training loss"] == "2 first, 0.0625 last"


def test_a_run_without_a_step_has_a_page(tmp_path):
    folder = write_run(tmp_path / "new", steps=0, finished=False)
    (folder / "log.jsonl").unlink()
    assert "not finished, at step 0" in page([read_run(folder)])


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [read_run(write_run(tmp_path / place / "lora-1")) for place in ("a", "b")]
    assert f"{tmp_path}/a/lora-1" in page(runs)


def test_a_notebook_shows_summary_and_losses(two):
    text = two[0]._repr_html_()
    assert text == snippet(two[0]) and "<polyline" in text and "exact_match" in text and not Tags(text).open


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_it_without_complaint_and_without_scrolling_sideways(two, tmp_path, width):
    place = tmp_path / "page.html"
    measure = "<script>document.title = document.documentElement.scrollWidth + ' of ' + window.innerWidth</script>"
    place.write_text(page(two).replace("</body>", f"{measure}</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    more = ["--disable-sync", "--disable-component-update", "--disable-quic", "--enable-logging=stderr"]
    done = subprocess.run(
        [CHROMIUM, *flags, *more, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom", place.as_uri()],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    shown, there = map(int, re.search(r"<title>(\d+) of (\d+)</title>", done.stdout).groups())
    assert shown <= there
