import pytest

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.diffusion.annotate.job import Job, run_job
from diffpo.storage.job_folder import JobFolder


def worked(folder, **options) -> None:
    def work() -> dict:
        (folder / "made.json").touch()
        return {"pairs": 3}

    describe = "{0[pairs]} pairs are in {1.name}.".format
    run_job(work, folder / "made.json", "seed: 1", "made", describe, **options)


def test_a_command_ends_with_what_was_made_and_keeps_its_settings(tmp_path, capsys):
    (tmp_path / "new").mkdir()
    worked(tmp_path / "new")
    assert capsys.readouterr().out == "3 pairs are in new.\n"
    assert (tmp_path / "new" / "config.yaml").read_text() == "seed: 1"


@pytest.mark.parametrize(("repeats", "said"), [(True, "3 pairs are in {}."), (False, "")])
def test_what_was_finished_before_is_said_and_told_again_only_where_that_is_asked(tmp_path, capsys, repeats, said):
    worked(tmp_path)
    capsys.readouterr()
    worked(tmp_path, repeats=repeats)
    found = capsys.readouterr().out
    assert found == f"{tmp_path} was finished already, nothing was made.\n{said.format(tmp_path.name)}\n"


def test_a_folder_of_something_else_is_refused_before_the_source_is_read(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    folder = JobFolder(tmp_path / "out", "made.json", ".making", ".parquet")
    with pytest.raises(Refusal, match=r"thesis\.txt"):
        Job.open(folder, Columns(str(tmp_path / "nowhere.parquet")), [], 0, 4)
