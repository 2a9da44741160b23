import pytest

from diffpo.core.refusal import Refusal
from diffpo.storage.shared_work import shared_out


def work(folder, given, until=99, identity="a"):
    def found(numbers):
        given.append(numbers)
        for number in numbers:
            if number >= until:
                raise KeyError(number)
            yield {number: number**2}

    return shared_out([1, 2, 5, 7], found, 2, folder, {"of": identity}, "squares", "number")


def test_numbers_are_given_in_chunks_and_only_once(tmp_path):
    given = []
    assert work(tmp_path, given) == {1: 1, 2: 4, 5: 25, 7: 49}
    assert given == [[1, 2], [5, 7]]
    assert work(tmp_path, given) == {1: 1, 2: 4, 5: 25, 7: 49}
    assert len(given) == 2


def test_what_was_found_before_an_error_is_kept(tmp_path):
    with pytest.raises(KeyError):
        work(tmp_path, [], until=7)
    given = []
    assert work(tmp_path, given)[7] == 49
    assert given == [[7]]


def test_other_work_in_the_folder_is_refused(tmp_path):
    work(tmp_path, [])
    with pytest.raises(Refusal, match="of was 'a' and is 'b'"):
        work(tmp_path, [], identity="b")
