"""Code planted in what is read: it never runs, whatever else becomes of the file."""

import json
import pickle
import shutil
import tarfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from datasets import Dataset
from planted import Planted, saved_by_torch
from tiny import pair_folder, pipeline

from diffpo.cli.command import parse
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, PairFolder, PickAPicShards
from diffpo.data.pairs import PairTable
from diffpo.data.streams import PairStream
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.evaluation.model import ComparedModel
from diffpo.diffusion.model.kohya import export_kohya
from diffpo.diffusion.model.lora import WarmLoRA
from diffpo.diffusion.model.pipeline import load_base
from diffpo.diffusion.users.embeddings import UserEmbeddings
from diffpo.evaluation.prompts import Prompts
from diffpo.scorers.image_reward import ImageReward
from diffpo.scorers.pickscore import PickScore
from diffpo.text.model.loading import CausalLM
from diffpo.train.reference_cache import CachedReference


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def flag(tmp_path):
    """What planted code touches; nothing may have."""
    file = tmp_path / "ran"
    yield file
    assert not file.exists()


def planting(file: Path) -> str:
    return f"import pathlib\npathlib.Path({str(file)!r}).touch()\n"


@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_bases_in_one_file(base, tmp_path, flag, kind, name):
    content = pickle.dumps(Planted(flag)) if kind == "pickle" else saved_by_torch(flag)
    (tmp_path / name).write_bytes(content)
    for load in (
        lambda path: load_base(path, config=str(base)),
        lambda path: load_base(str(base), unet=path),
        lambda path: load_base(str(base), vae=path),
    ):
        with pytest.raises(Refusal):
            load(str(tmp_path / name))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_of_parts_as_torch_saves_them(base, tmp_path, flag, part):
    folder = shutil.copytree(base, tmp_path / "base")
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    (folder / part / name).write_bytes(saved_by_torch(flag))
    with pytest.raises(Refusal):
        load_base(str(folder))


def test_parts_whose_class_a_folder_brings(base, tmp_path, flag):
    folder = shutil.copytree(base, tmp_path / "base")
    index = json.loads((folder / "model_index.json").read_text())
    for name in ("unet", "scheduler", "tokenizer"):
        (folder / name / "evil.py").write_text(planting(flag) + "class Evil: ...\n")
        (folder / "model_index.json").write_text(json.dumps(index | {name: ["evil", "Evil"]}))
        with pytest.raises(Refusal):
            load_base(str(folder))
    (folder / "pipeline.py").write_text(planting(flag) + "class Evil: ...\n")
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["pipeline", "Evil"]}))
    with pytest.raises(Refusal):
        load_base(str(folder))


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "pytorch_lora_weights.safetensors", "x.safetensors"])
def test_adapters(base, tmp_path, flag, name):
    (tmp_path / name).write_bytes(saved_by_torch(flag))
    place = str(tmp_path / name) if name.startswith("x") else str(tmp_path)
    for use in (
        lambda: WarmLoRA(place).attach(pipeline().unet),
        lambda: export_kohya(place, tmp_path / "out.safetensors", torch.float32),
        lambda: ComparedModel("a", str(base), lora=place).load(),
        lambda: ComparedModel("a", str(base), negative=place).load(),
        lambda: ComparedModel("a", str(base), unet=place).load(),
    ):
        with pytest.raises(Refusal):
            use()


@pytest.mark.parametrize("kind", [ImageReward, PickScore])
def test_scorers(tmp_path, flag, kind):
    shutil.copytree("assets/tiny-pickscore", tmp_path / "scorer")
    for file in (tmp_path / "scorer").glob("*.safetensors"):
        file.unlink()
    for name in ("ImageReward.pt", "pytorch_model.bin", "open_clip_pytorch_model.bin"):
        (tmp_path / "scorer" / name).write_bytes(saved_by_torch(flag))
    with pytest.raises(Refusal):
        kind(str(tmp_path / "scorer")).check(["a"])


def test_language_models_and_their_own_classes(tmp_path, flag, monkeypatch):
    folder = shutil.copytree("assets/tiny-lm", tmp_path / "lm")
    config = json.loads((folder / "config.json").read_text())
    (folder / "evil.py").write_text(planting(flag))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # asked whether to trust it, somebody agrees
    for name in ("config.json", "tokenizer_config.json"):
        told = json.loads((folder / name).read_text())
        told |= {"auto_map": {key: "evil.Evil" for key in ("AutoConfig", "AutoModelForCausalLM")}}
        told["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
        (folder / name).write_text(json.dumps(told | {"model_type": "evil", "tokenizer_class": "Evil"}))
        with suppress(Refusal):
            CausalLM(str(folder)).load()
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy("assets/tiny-lm/tokenizer_config.json", folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(saved_by_torch(flag))
    with pytest.raises(Refusal):
        CausalLM(str(folder)).load()


MEMBERS = (
    "jpg_0.jpg",
    "jpg_1.jpg",
    "label_0.txt",
    "original_prompt.txt",
    "x.pyd",
    "x.pickle",
    "x.pkl",
    "x.pth",
    "x.npy",
)


@pytest.mark.parametrize("member", MEMBERS)
def test_members_of_shards(tmp_path, flag, member):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in {*MEMBERS[:4], member}:
            content = b"1" if name == "label_0.txt" else b"text"
            if name == member:
                content = saved_by_torch(flag) if name.endswith("pth") else pickle.dumps(Planted(flag))
            if name.endswith("npy"):
                content = array_of(Planted(flag))
            info = tarfile.TarInfo(f"0.{name}")
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    source = PickAPicShards(str(tmp_path / "a.tar"))
    for use in (lambda: look(PairTable(source, [], 0)), lambda: next(PairStream(source, [], 0, 4).visits())):
        with suppress(Refusal):
            use()


def array_of(thing: object) -> bytes:
    held = BytesIO()
    np.save(held, np.array([thing], dtype=object), allow_pickle=True)
    return held.getvalue()


def look(table) -> None:
    for candidate in table[0].candidates:
        candidate.read()


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "json", "csv", "pkl", "pickle", "tar", "txt"])
def test_files_of_tables_and_prompts(tmp_path, flag, ending):
    (tmp_path / f"a.{ending}").write_bytes(pickle.dumps(Planted(flag)))
    for use in (
        lambda: Columns(str(tmp_path / f"a.{ending}")).open(),
        lambda: Columns(str(tmp_path)).open(),
        lambda: next(PairStream(Columns(str(tmp_path)), [], 0, 4).visits()),
        lambda: Prompts(str(tmp_path / f"a.{ending}")).read(),
    ):
        with suppress(Refusal):
            use()


def test_types_that_a_table_brings_along(tmp_path, flag):
    """Arrow's metadata may name a type of Python, as a pickle, and those of `datasets` its features."""
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    planted = kind | {b"ARROW:extension:metadata": pickle.dumps(Planted(flag))}
    names = ["prompt", "chosen", "rejected"]
    schema = pa.schema([pa.field(name, pa.string(), metadata=planted) for name in names])
    told = {b"huggingface": json.dumps({"info": {"features": {"prompt": {"_type": "Evil", "id": None}}}}).encode()}
    table = pa.table([["a"], ["b"], ["c"]], schema=schema).replace_schema_metadata(told)
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.arrow", "a.parquet"):
        with suppress(Refusal):
            look(PairTable(Columns(str(tmp_path / name)), [], 0))


def test_scripts_beside_data(tmp_path, flag):
    folder = tmp_path / "data"
    Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}).to_parquet(folder / "a.parquet")
    (folder / "data.py").write_text(planting(flag))
    pair_folder(tmp_path / "pairs", n=1)
    (tmp_path / "pairs" / "pairs.py").write_text(planting(flag))
    with pytest.raises(Refusal, match="it has a script of the folder's own name, which `datasets` no longer"):
        Columns(str(folder)).open()
    assert len(PairFolder(str(tmp_path / "pairs")).open()) == 1
    with pytest.raises(Refusal):
        Columns(str(folder / "data.py")).open()


def test_what_a_folder_of_work_holds(tmp_path, flag):
    planted = pickle.dumps(Planted(flag))
    about = {"files": {"pairs": 1, "prompts": 1}, "flip": False, "k": 2, "shapes": {"scores": [1, 1, 2]}}
    for name in ("encoding.json", "users.json", "identity.json"):
        (tmp_path / name).write_text(json.dumps(about))
    for name in ("pairs-00000-of-00001.arrow", "users.parquet", "users-00000-of-00001.safetensors"):
        (tmp_path / name).write_bytes(planted)
    (tmp_path / "scores.npy").write_bytes(array_of(Planted(flag)))
    for use in (
        lambda: EncodedPairs(str(tmp_path)).open(),
        lambda: UserEmbeddings(str(tmp_path)).users,
        lambda: CachedReference(None, tmp_path),
    ):
        with suppress(Exception):  # what is damaged is another test's matter
            use()


def test_configs(tmp_path, flag, capsys):
    def main(seed: int = 0, settings: str = "") -> None: ...

    for text in (
        f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{flag}']]",
        f"seed: !!python/object/new:os.system ['touch {flag}']",
        yaml.dump(Planted(flag)),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises((SystemExit, Refusal)):
            parse(main, ["--config", str(tmp_path / "config.yaml")])
