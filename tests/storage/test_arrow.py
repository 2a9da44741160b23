import signal
from dataclasses import dataclass
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit, setrlimit

import pytest
from datasets import Features, Value

from diffpo.core.refusal import Refusal
from diffpo.storage import arrow
from diffpo.storage.arrow import Shards

COLUMNS = Features({"n": Value("int64"), "blob": Value("binary")})


@dataclass(frozen=True, eq=False)
class Numbers(Shards):
    count: int
    size: int
    what = "numbers"

    @property
    def rows(self) -> int:
        return self.count

    @property
    def bytes_of_row(self) -> int:
        return self.size

    def write(self, names, folder, silent):
        for name in names:
            arrow.write_batch(folder / name, COLUMNS, ({"n": n, "blob": bytes(self.size)} for n in self.files[name]))
            yield name


def test_what_was_written_in_files_is_one_table(tmp_path):
    numbers = Numbers(2500, 8)
    list(numbers.write(list(numbers.files), tmp_path, silent=True))
    assert list(numbers.files) == [f"numbers-0000{n}-of-00003.arrow" for n in range(3)]
    table = arrow.open_files(tmp_path, "numbers", 3)
    assert table["n"][:] == list(range(2500))
    assert table[2000]["blob"] == bytes(8)
    assert numbers.bytes == 2500 * 8


def test_large_rows_make_files_of_fewer_rows():
    files = Numbers(10, 100 * 2**20).files
    assert [len(rows) for rows in files.values()] == [2, 2, 2, 2, 2]
    assert len(Numbers(3, 2**30).files) == 3


def test_a_missing_file_is_named(tmp_path):
    numbers = Numbers(2500, 8)
    list(numbers.write(list(numbers.files)[:2], tmp_path, silent=True))
    with pytest.raises(Refusal, match="lacks 1 of its files, the first is numbers-00002-of-00003.arrow"):
        arrow.open_files(tmp_path, "numbers", 3)


def test_a_disk_that_is_full_leaves_no_file_that_could_be_taken_for_whole(tmp_path):
    """No file can outgrow 100 kB."""
    before, handler = getrlimit(RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    setrlimit(RLIMIT_FSIZE, (100_000, RLIM_INFINITY))
    try:
        with pytest.raises(Refusal, match="numbers-00000-of-00001.arrow could not be written .*Make room there"):
            list(Numbers(4, 50_000).write(["numbers-00000-of-00001.arrow"], tmp_path, silent=True))
    finally:
        setrlimit(RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.glob("*.arrow"))
