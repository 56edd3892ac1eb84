"""`petrun report` and `petrun watch` on runs as they are."""

from tests.training.report.runs import write_run


def test_a_page_goes_into_the_folder_of_the_run_and_of_several_here(place, petrun):
    assert petrun("report gpt2-lora").out == "wrote gpt2-lora/report.html\n"
    text = (place / "gpt2-lora" / "report.html").read_text()
    assert "gpt2-lora" in text and "1+2=" in text and "delta.rank" in text
    assert petrun("report gpt2-lora bert-lora").out == "wrote report.html\n"
    # Again: a page replaces a page.
    assert petrun("report gpt2-lora").code == 0


def test_what_is_no_run_and_what_would_be_lost_are_refused(refused):
    refused("report gpt2", ["gpt2: holds no run: there is no run.yaml in it"], 2)
    refused("report none", ["none: no such folder"], 2)
    refused("report gpt2-lora ./gpt2-lora", ["is given twice"], 2)
    refused("report gpt2-lora --out gpt2-lora/run.yaml", ["would replace what this command reads"], 1)
    refused("report gpt2-lora --out none/page.html", ["the folder none does not exist"], 1)
    refused("watch gpt2", ["gpt2: holds no run"], 2)
    refused("watch gpt2-lora --interval 0", ["--interval 0: must be above 0"], 2)


def test_a_finished_run_is_shown_once(place, petrun):
    done = petrun("watch gpt2-lora")
    assert done.code == 0 and done.out.startswith("step 1  loss ") and "finished in" in done.out
    assert "steps" in petrun("watch gpt2-lora --once").out


def test_a_run_that_was_stopped_is_shown_with_the_way_to_resume(place, petrun):
    write_run(place / "half", finished=False)
    assert "to resume: petrun resume half" in petrun("watch half --once").out
