"""Golden scores of HPSv3, by the package hpsv3 1.0.0 on tiny random weights.

Made with Python 3.11, torch 2.4.1, torchvision 0.19.1, transformers 4.45.2, tokenizers 0.20.3, accelerate 0.34.2,
safetensors 0.4.5, omegaconf 2.3.0, numpy 1.26.4, pillow 10.4.0, huggingface-hub 0.26.5 on a CPU:

    python3.11 -m venv old
    old/bin/pip install torch==2.4.1 torchvision==0.19.1 "numpy<2" transformers==4.45.2 huggingface_hub==0.26.5 \
        accelerate==0.34.2 safetensors==0.4.5 pillow==10.4.0 omegaconf==2.3.0 requests
    old/bin/pip install --no-deps hpsv3==1.0.0
    PYTHONPATH=tests old/bin/python tests/golden/hpsv3/make.py

The package's own HPSv3_7B.yaml is used, but for the path of a tiny Qwen2-VL (`files.py`), the CPU and the type of the
weights; modules that only its training needs are replaced by empty ones. The head has its published hidden widths.

float32 checks the formula. bfloat16 is how the package publishes scores; there a hook casts the head's input to
float32, because the package's CUDA autocast, which does so, has no effect on a CPU.
"""

import json
import tempfile
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torchvision  # noqa: F401
import transformers.trainer
from golden.hpsv3 import files
from safetensors.torch import save_file

HERE = Path(__file__).parent
ONLY_FOR_TRAINING = {
    "datasets": {},
    "fire": {},
    "matplotlib": {},
    "matplotlib.patches": {},
    "matplotlib.pyplot": {},
    "pandas": {},
    "peft": {"PeftModel": object, "LoraConfig": object, "get_peft_model": None},
    "torch.utils.tensorboard": {"SummaryWriter": object},
    "trl": {"RewardTrainer": object, "get_kbit_device_map": None, "get_quantization_config": lambda _: None},
}


def run(folder: Path, dtype: str) -> dict[str, Any]:
    """Shapes of the published file's weights, and the package's mean and log deviation for every case."""
    from hpsv3.inference import HPSv3RewardInferencer
    from hpsv3.model.qwen2vl_trainer import Qwen2VLRewardModelBT
    from omegaconf import OmegaConf

    config = OmegaConf.load(str(resources.files("hpsv3") / "config" / "HPSv3_7B.yaml"))
    config.update(model_name_or_path=str(folder), torch_dtype=dtype, bf16=dtype == "bfloat16", use_cpu=True)
    config.update(output_dir=str(folder / "out"))
    OmegaConf.save(config, folder / "tiny.yaml")
    base = transformers.AutoConfig.from_pretrained(folder)
    transformers.Qwen2VLForConditionalGeneration(base).save_pretrained(folder)
    base.vocab_size = len(files.VOCABULARY) + len(files.SPECIAL) + 1
    empty = Qwen2VLRewardModelBT(base, output_dim=2, rm_head_type="ranknet")
    shapes = {name: list(tensor.shape) for name, tensor in empty.state_dict().items()}
    save_file(files.drawn(shapes), folder / "HPSv3.safetensors")
    scorer = HPSv3RewardInferencer(str(folder / "tiny.yaml"), str(folder / "HPSv3.safetensors"), device="cpu")
    scorer.model.rm_head.register_forward_pre_hook(lambda _, given: tuple(states.float() for states in given))
    prompts = [prompt for prompt, *_ in files.CASES]
    with torch.no_grad():
        found = torch.cat(
            [scorer.reward(files.pictures()[i : i + 4], prompts[i : i + 4]) for i in range(0, len(prompts), 4)]
        )
    return {"shapes": shapes, dtype: found.tolist()}


def stand_in(name: str, contents: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(contents)
    return module


if __name__ == "__main__":
    golden: dict[str, Any] = {}
    replaced = {name: stand_in(name, contents) for name, contents in ONLY_FOR_TRAINING.items()}
    with mock.patch.dict("sys.modules", replaced), tempfile.TemporaryDirectory() as place:
        files.write_base(Path(place))
        for dtype in ("float32", "bfloat16"):
            golden |= run(Path(place), dtype)
    golden["shapes"] = {name: " ".join(map(str, shape)) for name, shape in golden["shapes"].items()}
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
