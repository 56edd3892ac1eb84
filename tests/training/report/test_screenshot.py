"""--png: a picture of the page, and what is said without a browser."""

import os
import struct

import pytest

from petrun.errors import OutputError, SetupError
from petrun.training.report.screenshot import find_browser, write_png
from tests.training.report.runs import write_run
from tests.training.report.test_page import CHROMIUM


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_becomes_a_picture_of_its_full_height(petrun, tmp_path):
    write_run(tmp_path / "run")
    done = petrun(f"report {tmp_path / 'run'} --png --out page.png")
    assert done.code == 2 and "is where --png puts the picture" in done.err
    done = petrun(f"report {tmp_path / 'run'} --png")
    assert done.code == 0, done.err
    content = (tmp_path / "run" / "report.png").read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert content[:4] == b"\x89PNG" and width == 1280 and height > 1500 and f"{height} pixels tall" in done.out
    assert "height" not in (tmp_path / "run" / "report.html").read_text().partition("</title>")[0]


def test_without_a_browser_nothing_is_written_and_the_package_is_named(petrun, tmp_path, monkeypatch):
    write_run(tmp_path / "run")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="none of chromium"):
        find_browser()
    done = petrun(f"report {tmp_path / 'run'} --png")
    assert done.code == 1 and "apt-get install chromium" in done.err
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_browser_that_draws_nothing_is_an_error(tmp_path, monkeypatch):
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\necho '<title>height 900</title>' broken\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_browser() == str(browser)
    with pytest.raises(OutputError, match=r"wrote no picture: .*broken"):
        write_png(str(browser), "<body></body>", tmp_path / "page.png")
    browser.write_text("#!/bin/sh\n")
    with pytest.raises(OutputError, match="does not say how tall"):
        write_png(str(browser), "<body></body>", tmp_path / "page.png")
