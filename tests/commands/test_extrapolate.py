from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from diffpo.cli.command import parse
from diffpo.commands.extrapolate import main


def saved(folder: Path, value: float) -> Path:
    folder.mkdir()
    save_file({"weight": torch.full((2, 2), value)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_next_round_starts_beyond_the_last_by_the_share_that_was_asked_for(tmp_path):
    """3 + 0.5 (3 - 1) = 4, in the type that is named."""
    words = [f"--plain={saved(tmp_path / 'plain', 3.0)}", f"--before={saved(tmp_path / 'before', 1.0)}"]
    arguments, _ = parse(main, [*words, f"--output_dir={tmp_path / 'out'}", "--alpha=0.5", "--dtype=fp16"])
    main(**arguments)
    [weight] = load_file(tmp_path / "out" / "model.safetensors").values()
    assert torch.equal(weight, torch.full((2, 2), 4.0, dtype=torch.float16))
    assert (tmp_path / "out" / "config.json").exists()
