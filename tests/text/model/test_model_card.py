import yaml

from diffpo.text.data.layouts import Conversations
from diffpo.text.data.pairs import TextData
from diffpo.text.model.loading import CausalLM
from diffpo.text.model.lora import TextLoRA
from diffpo.text.model.model_card import front_matter, write_card, write_text_snippet
from diffpo.text.model.vision import VisionLM
from diffpo.text.objective.preference import SequencePreference

DATA = TextData(Conversations("someone/pairs"))


def test_the_card_says_how_and_on_what_it_was_trained(tmp_path):
    write_card(tmp_path, CausalLM("someone/base"), DATA, SequencePreference(), "12 of 12 rows were kept.", "seed: 0")
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert (head["base_model"], head["datasets"], head["library_name"]) == (
        "someone/base",
        ["someone/pairs"],
        "transformers",
    )
    assert "diffpo.text.SequencePreference" in text
    assert "12 of 12 rows were kept." in text


def test_an_adapter_is_loaded_into_its_base():
    base = CausalLM("someone/base", adapter=TextLoRA(), revision="v1")
    assert 'from_pretrained("someone/base", revision="v1")' in write_text_snippet(base, "out")
    assert write_text_snippet(base, "out").endswith('model = PeftModel.from_pretrained(model, "out")')
    assert front_matter(base, DATA).to_dict()["base_model_relation"] == "adapter"


def test_a_model_that_sees_is_loaded_with_its_processor():
    lines = write_text_snippet(VisionLM("someone/sees"), "out").splitlines()
    assert lines[0] == "from transformers import AutoModelForImageTextToText, AutoProcessor"
    assert lines[-1] == 'processor = AutoProcessor.from_pretrained("out")'
    assert front_matter(VisionLM("someone/sees"), DATA).pipeline_tag == "image-text-to-text"


def test_local_paths_are_left_out_of_what_the_hub_reads(tmp_path):
    assert "base_model" not in front_matter(CausalLM(str(tmp_path)), DATA).to_dict()
