"""Ways of planting code in a file, by its kind: what is run touches another file."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from planted import Planted, saved_by_torch

PICKLED = ("pytorch_model.bin", "diffusion_pytorch_model.bin", "adapter_model.bin", "pytorch_lora_weights.bin", "a.pt")

Plant = Callable[[Path, Path], None]  # into a file; what is run touches the second one


def by_pickle(file: Path, flag: Path) -> None:
    file.write_bytes(pickle.dumps(Planted(flag)))


def by_torch(file: Path, flag: Path) -> None:
    file.write_bytes(saved_by_torch(flag))


def by_torch_beside(file: Path, flag: Path) -> None:
    """The weights are there in the pickled kind alone."""
    file.unlink()
    for name in {*PICKLED, file.with_suffix(".bin").name, file.with_suffix(".ckpt").name}:
        (file.parent / name).write_bytes(saved_by_torch(flag))


def by_array(file: Path, flag: Path) -> None:
    held = io.BytesIO()
    np.save(held, np.array([Planted(flag)], dtype=object), allow_pickle=True)
    file.write_bytes(held.getvalue())


def by_classes(file: Path, flag: Path) -> None:
    """A JSON file names classes that the folder brings along, in all ways that libraries know of."""
    code = f"import pathlib\npathlib.Path({str(flag)!r}).touch()\nclass Evil: ...\n"
    for name in ("evil.py", "pipeline.py", f"{file.parent.name}.py"):
        (file.parent / name).write_text(code)
    said = json.loads(file.read_text())
    if not isinstance(said, dict):
        return
    autos = "AutoConfig AutoModel AutoModelForCausalLM AutoModelForSeq2SeqLM AutoModelForImageTextToText AutoProcessor"
    said["auto_map"] = dict.fromkeys([*autos.split(), "AutoImageProcessor", "AutoFeatureExtractor"], "evil.Evil")
    said["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
    said |= {"custom_pipeline": "evil", "auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}
    for name in ("_class_name", "model_type", "tokenizer_class", "image_processor_type", "processor_class"):
        if name in said:
            said[name] = "Evil" if name != "_class_name" else ["evil", "Evil"]
    for name, value in said.items():
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
            said[name] = ["evil", "Evil"]  # parts of a pipeline
    file.write_text(json.dumps(said))


def by_classes_beside(file: Path, flag: Path) -> None:
    """The same, but what the file is of stays known, so that reading goes on to the end."""
    said = json.loads(file.read_text())
    by_classes(file, flag)
    if isinstance(said, dict):
        file.write_text(json.dumps({**json.loads(file.read_text()), **said}))


def by_template(file: Path, flag: Path) -> None:
    """A chat template that leaves the sandbox, if there is none."""
    names = ("cycler.__init__.__globals__.os", "lipsum.__globals__['os']", "self.__init__.__globals__['os']")
    reached = "".join(f"{{{{ {name}.system('touch {flag}') }}}}" for name in names)
    reached += "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    if file.suffix == ".jinja":
        file.write_text(reached)
        return
    said = json.loads(file.read_text())
    if isinstance(said, dict):
        file.write_text(json.dumps(said | {"chat_template": reached}))
        for other in file.parent.glob("*.jinja"):
            other.unlink()


def by_yaml(file: Path, flag: Path) -> None:
    file.write_text(f"a: !!python/object/apply:os.system ['touch {flag}']\n")


WAYS: dict[str, tuple[Plant, ...]] = {
    ".safetensors": (by_pickle, by_torch, by_torch_beside),
    ".npy": (by_pickle, by_array),
    ".json": (by_pickle, by_classes, by_classes_beside, by_template),
    ".jinja": (by_pickle, by_template),
    ".yaml": (by_pickle, by_yaml),
}
ANY: tuple[Plant, ...] = (by_pickle, by_torch)
