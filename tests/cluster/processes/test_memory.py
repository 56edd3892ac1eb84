"""The memory that a process can get is the least of the machine's and of its control groups'."""

from petrun.cluster.processes.memory import available_bytes, left_by_groups


def write(folder, limit, used, cache):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")


def test_every_group_above_the_process_counts_and_a_file_cache_is_free(tmp_path):
    write(tmp_path / "job" / "step", 1000, 400, 50)
    write(tmp_path / "job", "max", 900, 0)
    write(tmp_path, 2000, 1900, 10)
    assert list(left_by_groups(tmp_path, "job/step")) == [650, 110]


def test_a_group_of_version_1(tmp_path):
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("5000")
    (old / "memory.usage_in_bytes").write_text("3000")
    (old / "memory.stat").write_text("total_inactive_file 100\n")
    assert list(left_by_groups(tmp_path, "")) == [2100]


def test_this_machine_says_how_much_there_is():
    found = available_bytes()
    assert found is not None and found > 2**20
