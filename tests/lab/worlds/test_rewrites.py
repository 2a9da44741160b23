import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffpo.cli.command import parse
from diffpo.data.layouts import Columns
from diffpo.data.pairs import PairTable
from diffpo.lab.worlds import rewrites as build_language
from diffpo.text.data.layouts import Lists


def build(output_dir, *overrides: str) -> None:
    chosen = [f"--output_dir={output_dir}", "--steps=1", "--pairs=3", "--lists=3", "--conversations=3", *overrides]
    arguments, settings = parse(build_language.main, chosen)
    build_language.main(**arguments, settings=settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("language")
    build(root)
    return root


def test_the_model_loads_plainly_with_its_tokenizer(world):
    model = AutoModelForCausalLM.from_pretrained(world / "tiny-lm")
    assert len(AutoTokenizer.from_pretrained(world / "tiny-lm")) == model.config.vocab_size


def test_pairs_and_prompts_are_written(world):
    assert len(PairTable(Columns(str(world / "tiny-rewrites" / "train.parquet")), [], seed=0)) == 3
    lists = PairTable(Lists(str(world / "tiny-rewrites" / "lists.parquet"), low=-1.0, high=2.0), [], seed=0)
    assert {len(lists[i].candidates) for i in range(len(lists))} == {4}
    counts = {"development": 64, "evaluation": 100}
    for part, count in counts.items():
        lines = (world / "tiny-rewrites" / "prompts" / f"{part}.jsonl").read_text().splitlines()
        assert len({json.loads(line)["prompt"] for line in lines}) == count


def test_with_a_finished_model_only_the_pairs_are_made(world, tmp_path):
    build(tmp_path, f"--base={world / 'tiny-lm'}")
    first, again = ((root / "tiny-lm" / "model.safetensors").read_bytes() for root in (world, tmp_path))
    assert first == again
    for name in ("train", "lists", "conversations"):
        tables = [root / "tiny-rewrites" / f"{name}.parquet" for root in (world, tmp_path)]
        assert tables[0].read_bytes() == tables[1].read_bytes()
