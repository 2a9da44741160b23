import json
from pathlib import Path

from datasets import Dataset

from diffpo.lab.worlds.shapes import main

BASE = Path("assets/tiny-sd")


def test_a_world_is_built_around_a_finished_base(tmp_path):
    main(tmp_path, pairs=2, base=BASE)
    assert (tmp_path / "tiny-sd" / "model_index.json").exists()
    table = Dataset.from_parquet(str(tmp_path / "tiny-pairs" / "train.parquet"))
    assert len(table) == 2
    assert {"jpg_0", "jpg_1", "label_0", "caption"} <= set(table.column_names)
    lines = (tmp_path / "tiny-prompts" / "evaluation.jsonl").read_text().splitlines()
    assert len({json.loads(line)["prompt"] for line in lines}) == len(lines) > 50
