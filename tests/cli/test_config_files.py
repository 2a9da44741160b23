from pathlib import Path

import pytest

from diffpo.cli.config_files import require_readable
from diffpo.core.refusal import Refusal

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds nothing; a config is `option: value`"),
        (b"# a remark\n", "holds nothing"),
        (b"just a text", "holds the text 'just a text'; a config is"),
        (b"- a\n- b\n", "holds a list; a config is"),
        (b"a: [\n", "is no YAML: while parsing a flow node .* line 2"),
        (b"a: 1\n b: 2\n", "is no YAML: mapping values are not allowed here .* line 2"),
        (b"a: 1\n--- \nb: 2\n", "is no YAML: expected a single document"),
        ("a: café".encode("latin-1"), "is no text in UTF-8 .*0xe9 in position 6.*; save it as such"),
        ("a: 1".encode("utf-16"), "is no text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "is no text in UTF-8"),
        (b"a: \x00", "is no YAML: unacceptable character #x0000"),
        (b"seed: 1\nfit: {steps: 1}\nseed: 2\n", "says 'seed' twice in one place, again in line 3; keep one"),
        (b"fit:\n  steps: 1\n  ema: 0\n  steps: 2\n", "says 'steps' twice in one place, again in line 4"),
        (b"rows:\n- {a: 1, a: 1}\n", "says 'a' twice in one place, again in line 2"),
    ],
)
def test_what_is_no_config_is_one_line_with_the_files_name(tmp_path, content, said):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(Refusal, match=f"Config {file} {said}") as caught:
        require_readable(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.name)
def test_every_config_of_the_project_passes(file):
    require_readable(str(file))


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfseed: 1\n", b"a: &x {b: 1}\nc: *x\n", b"a: &x [*x]\n", b"a: {b: 1}\nc: {b: 1}\n"]
)
def test_marks_of_windows_and_parts_used_again_pass(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    require_readable(str(tmp_path / "config.yaml"))


def test_what_is_no_file_is_left_to_the_parser(tmp_path):
    require_readable(str(tmp_path))
    require_readable("{seed: 1}")
    require_readable("{seed: 1, path: " + "x" * 5000 + "}")
    require_readable(str(tmp_path / "nope.yaml"))
