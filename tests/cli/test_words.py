import re

import pytest

from diffpo.cli.words import find_configs, read_configs, require_configs
from diffpo.core.refusal import Refusal
from diffpo.storage.shipped import find_recipe


@pytest.mark.parametrize("said", [["--config", "quickstart"], ["--config=quickstart"]])
def test_the_name_of_a_recipe_becomes_its_file_and_all_else_stays(said):
    file = str(find_recipe("quickstart"))
    assert find_configs(["--seed=1", *said, "--output_dir", "x"]) == [
        "--seed=1",
        f"--config={file}",
        "--output_dir",
        "x",
    ]


def test_yaml_in_place_of_a_file_is_left_to_the_parser():
    line = ["--config", "seed: 3"]
    assert require_configs(line) == line
    assert read_configs(line) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("loss: diffpo.fit.FitConfig", "diffpo.fit.FitConfig is diffpo.FitConfig now; name it so."),
        ("remember: x", "The option remember is reference_cache now; name it so."),
        ("seed: [", "is no YAML"),
        ("- seed", "holds a list"),
    ],
)
def test_what_a_file_says_by_itself_is_refused_by_itself(tmp_path, text, reason):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(Refusal, match=re.escape(reason)):
        require_configs([f"--config={tmp_path / 'run.yaml'}"])
