import pytest

from diffpo.annotators.captioners.instructions import DESCRIBE, REWRITE, require_template
from diffpo.core.refusal import Refusal


def test_our_instructions_have_their_places():
    require_template(DESCRIBE, "{prompt}", object())
    for instruction in REWRITE:
        require_template(instruction, "{text}", object())


def test_an_instruction_without_its_place_is_refused():
    with pytest.raises(Refusal, match="str has the instruction 'Say it' without {text}; write it where"):
        require_template("Say it", "{text}", "asker")
