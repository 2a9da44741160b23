"""Code planted in every file that is read, in all ways that files of its kind can carry some: it never runs.

python tests/campaigns/planted_code.py --share 1

The files are found by walking what the library reads: bases, language models, speakers, scorers, and all folders of
work. Whether code ran is told by a file that it would touch, which also a member of an archive or a path in a table
would make, or show, if it led out of its folder.
"""

import argparse
import io
import json
import logging
import os
import pickle
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

if __name__ == "__main__":
    tests = Path(__file__).parents[1]
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[:0] = [str(tests.parent / "scripts"), *(str(tests / name) for name in ("", "helpers", "scripts"))]

import numpy as np
import tiny
import tiny_speakers
import torch
import yaml
from campaigns.damaged_files import Bench, kinds
from campaigns.outcomes import Heard, Outcomes, listen
from campaigns.planting import ANY, WAYS, Plant, by_array, by_pickle, by_torch, by_yaml
from campaigns.work import WORKS, Work
from tiny_embedders import onevision
from tiny_text import saved_language_model

from diffpo.annotators.captioners.blip import Blip
from diffpo.annotators.captioners.chat import ChatCaptioner, ChatPerturber
from diffpo.annotators.captioners.dipper import Dipper
from diffpo.annotators.embedders.chat import ChatEmbedder
from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.data.layouts import Columns, PairFolder, PickAPicShards
from diffpo.data.pairs import PairTable
from diffpo.data.streams import PairStream
from diffpo.diffusion.evaluation.model import ComparedModel
from diffpo.diffusion.model.pipeline import load_base
from diffpo.scorers.aesthetic import Aesthetic
from diffpo.scorers.clip_score import CLIPScore
from diffpo.scorers.hps import HPSv2, HPSv21
from diffpo.scorers.hpsv3 import HPSv3
from diffpo.scorers.image_reward import ImageReward
from diffpo.scorers.pickscore import PickScore
from diffpo.text.model.loading import CausalLM

log = logging.getLogger(__name__)

SCORERS = "scorers"  # whose published weights are too large: there are files of their names
ROWS = ("harmless", "refused", "ran")


@dataclass(frozen=True)
class Place:
    """A folder that the library reads.

    Attributes:
        readings: each does with the folder what a program does.
    """

    name: str
    make: Callable[[Path], object]
    readings: Mapping[str, Callable[[Path], object]]


def answer(captioner) -> None:
    captioner([tiny.picture()], ["a red circle"], [0])


def chatted(folder: Path) -> None:
    CausalLM(str(folder)).load()
    loaded = CausalLM(str(folder)).tokenizing()
    messages = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "xy"}]
    loaded.tokenizer.apply_chat_template(messages, tokenize=False)


def score(scorer) -> None:
    scorer.check(["a red circle"])
    scorer(["a red circle"], [tiny.picture()])


def published(folder: Path) -> None:
    """Files of weights by the names that they are published under."""
    names = ("ImageReward.pt", "HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt", "sac+logos+ava1-l14-linearMSE.pth")
    folder.mkdir()
    for name in (*names, "HPSv3.safetensors", "model.safetensors"):
        (folder / name).write_bytes(b"weights")


def all_scorers(folder: Path) -> None:
    kinds = (ImageReward, HPSv2, HPSv21, HPSv3, Aesthetic, PickScore, CLIPScore)
    refused: list[Refusal] = []
    for kind in kinds:
        try:
            kind(str(folder)).check(["a"])
        except Refusal as refusal:
            refused.append(refusal)
    raise refused[0]


PLACES = (
    Place(
        "base",
        tiny.saved,
        {
            "load": lambda folder: load_base(str(folder)),
            "as parts": lambda folder: ComparedModel(
                "a", str(folder), unet=str(folder), vae=str(folder), negative=str(folder)
            ).load(),
        },
    ),
    Place("SDXL", tiny.saved_xl, {"load": lambda folder: load_base(str(folder))}),
    Place("language model", saved_language_model, {"chat": chatted}),
    Place("llava", tiny_speakers.llava, {"caption": lambda folder: answer(ChatCaptioner(str(folder)))}),
    Place("blip", tiny_speakers.blip, {"caption": lambda folder: answer(Blip(str(folder)))}),
    Place("llama", tiny_speakers.llama, {"perturb": lambda folder: ChatPerturber(str(folder)).check()}),
    Place("t5", tiny_speakers.t5, {"perturb": lambda folder: Dipper(str(folder), vocabulary=str(folder)).check()}),
    Place("onevision", onevision, {"embed": lambda folder: ChatEmbedder(str(folder)).check()}),
    Place(
        "clip",
        lambda folder: shutil.copytree("assets/tiny-clip", folder),
        {
            "score": lambda folder: score(CLIPScore(str(folder))),
            "prefer": lambda folder: score(PickScore(str(folder), processor=str(folder))),
        },
    ),
    Place(SCORERS, published, {"check": all_scorers}),
)


def combined(names: Sequence[str], readings: Iterable[str]) -> list[tuple[str, Plant, str]]:
    """File, way and reading of all tries on files of one kind."""
    ways = [(name, plant) for name in names for plant in WAYS.get(Path(name).suffix, ANY)]
    return [(name, plant, reading) for name, plant in ways for reading in readings]


def chosen(share: float, some: list, rng: np.random.Generator) -> list:
    count = max(1, round(share * len(some)))
    return [some[number] for number in sorted(rng.choice(len(some), count, replace=False))]


def in_places(root: Path, share: float, rng: np.random.Generator) -> Iterator[tuple[str, str, str]]:
    """Column, outcome and description of each try on what others have made."""
    for place in PLACES:
        whole, folder, flag = root / "whole" / place.name, root / place.name, root / "ran"
        whole.parent.mkdir(exist_ok=True)
        place.make(whole)
        for name, read in place.readings.items():
            heard = listen(partial(read, whole))
            assert not heard.fault and not heard.code or place.name == SCORERS, (name, heard)  # noqa: PT018
        for names in kinds(whole).values():
            for name, plant, reading in chosen(share, combined(names, place.readings), rng):
                shutil.copytree(whole, folder)
                plant(folder / name, flag)
                with agreeing():
                    heard = listen(partial(place.readings[reading], folder))
                yield place.name, became(heard, flag), f"{name}, {plant.__name__}, {reading}"
                shutil.rmtree(folder)


def in_work(
    root: Path, share: float, rng: np.random.Generator, works: tuple[Work, ...]
) -> Iterator[tuple[str, str, str]]:
    """The same for folders of work."""
    bench, flag = Bench(root), root / "ran"
    for work in works:
        bench.build(work)
        for names in kinds(bench.kept / work.name).values():
            for name, plant, reading in chosen(share, combined(names, work.readings), rng):
                bench.restore(work)
                try:
                    plant(bench.root / work.name / name, flag)
                except ValueError:  # no JSON
                    continue
                with agreeing():
                    heard = bench.read(work, reading)
                yield "folders of work", became(heard, flag), f"{work.name}/{name}, {plant.__name__}, {reading}"
        bench.restore(work)


def agreeing():
    """Asked whether to trust code, somebody agrees."""
    return patch("builtins.input", lambda *_: "y")


def became(heard: Heard, flag: Path) -> str:
    """What became of a try; a traceback is another campaign's matter."""
    if flag.exists():
        flag.unlink()
        return "ran"
    return "refused" if heard.code else "harmless"


def members(root: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Archives whose members lead out of their folder, by their names or as links."""
    secret = root / "ran"
    for name in ("../ran", str(secret), "a/../../ran", "..\\ran"):
        for kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
            for ending in ("", ".jpg_0.jpg"):
                file = root / "shards" / "a.tar"
                file.parent.mkdir(exist_ok=True)
                with tarfile.open(file, "w") as archive:
                    for member in (f"{name}{ending}", "0.jpg_1.jpg", "0.label_0.txt", "0.original_prompt.txt"):
                        info = tarfile.TarInfo(member)
                        info.type, info.linkname = (kind, str(secret)) if member.startswith(name) else (b"0", "")
                        info.size = 4 if info.type == tarfile.REGTYPE else 0
                        archive.addfile(info, io.BytesIO(b"text"[: info.size]))
                yield f"member {name}{ending} of kind {kind!r}", partial(both, PickAPicShards(str(file)))


def both(source) -> None:
    """Read a source as a table and as a stream."""
    try:
        table = PairTable(source, [], 0)
        for candidate in table[0].candidates:
            read_image(candidate.read(), candidate.folder)
    except Refusal:
        next(PairStream(source, [], 0, 4).visits())
        raise


def paths(root: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Tables that name a file outside of their folder."""
    secret = root / "secret.png"
    tiny.picture().save(secret)
    folder = root / "table"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    for name in ("../secret.png", str(secret), "link.png", "a/../../secret.png", f"file://{secret}"):
        for value in (name, {"path": name, "bytes": None}, [name]):
            line = {"prompt": "a", "chosen": value, "rejected": value}
            (folder / "a.jsonl").write_text(f"{json.dumps(line)}\n")
            yield f"path {value}", lambda: shown_to(root, Columns(str(folder / "a.jsonl")))
    pairs = root / "pairs"
    tiny.pair_folder(pairs, 1)
    (pairs / "chosen" / "0.png").unlink()
    (pairs / "chosen" / "0.png").symlink_to(secret)
    yield "a link in a folder of pairs", lambda: shown_to(root, PairFolder(str(pairs)))


def shown_to(root: Path, source) -> None:
    """What a picture that lies elsewhere shows counts as run."""
    for candidate in PairTable(source, [], 0)[0].candidates:
        read_image(candidate.read(), candidate.folder)
        (root / "ran").touch()


def class_paths(root: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Configs that name what Python itself brings, at every place that takes a class."""
    from diffpo.cli.command import parse
    from diffpo.commands import train as train_diffusion_dpo

    command = f"touch {root / 'ran'}"
    evils = {
        "os.system": {"command": command},
        "subprocess.Popen": {"args": command, "shell": True},
        "subprocess.run": {"args": command, "shell": True},
        "builtins.exec": {"source": f"open({str(root / 'ran')!r}, 'w')"},
        "pathlib.Path.touch": {"self": str(root / "ran")},
        "runpy.run_path": {"path_name": str(root / "evil.py")},
        "code.interact": {},
        "diffpo.cli.command.os.system": {"command": command},
        "torch.serialization.os.system": {"command": command},
        "numpy.f2py.diagnose.os.system": {"command": command},
    }
    (root / "evil.py").write_text(f"open({str(root / 'ran')!r}, 'w')")
    places = ("objective", "objective.loss", "base.adapter", "data.source", "data.rows+", "optimizer", "reference")
    for place in (*places, "preview", "validation", "evaluation", "publish"):
        for kind, arguments in evils.items():
            value = json.dumps({"class_path": kind, "init_args": arguments})
            line = ["--config=configs/quickstart.yaml", f"--{place}={value}", f"--output_dir={root / 'no'}"]
            yield f"{place}: {kind}", lambda line=line: parse(train_diffusion_dpo.main, line)


def campaign(root: Path, share: float, seed: int = 0, works: Sequence[Work] = WORKS) -> Outcomes:
    """Plant and read; of what is found by walking, a share.

    Raises:
        AssertionError: if planted code does not even run where it is read carelessly.
    """
    outcomes, rng, flag = Outcomes(ROWS), np.random.default_rng(seed), root / "ran"
    assert runs_if_read_carelessly(root)
    for column, row, what in in_places(root, share, rng):
        outcomes.add(column, row, what)
    log.info(f"{outcomes}\n")
    for name, others in (("archives", members), ("paths", paths), ("class paths", class_paths)):
        for what, read in chosen_of(others(root), share, rng):
            outcomes.add(name, became(listen(read), flag), what)
        log.info(f"{outcomes}\n")
    (root / "work").mkdir()
    for column, row, what in in_work(root / "work", share, rng, works):
        if column not in outcomes.counts:
            log.info(f"{outcomes}\n")
        outcomes.add(column, row, what)
    return outcomes


def chosen_of(tries: Iterator[tuple[str, Callable]], share: float, rng: np.random.Generator) -> Iterator:
    """A share of tries, each of which is to be run before the next one is made."""
    for one in tries:
        if rng.random() < max(share, 0.2):
            yield one


def runs_if_read_carelessly(root: Path) -> bool:
    """Whether the ways that need nothing but a reader of pickles work at all."""
    flag, ran = root / "ran", []
    for plant, read in (
        (by_pickle, lambda file: pickle.loads(file.read_bytes())),
        (by_torch, lambda file: torch.load(file, weights_only=False)),
        (by_array, lambda file: np.load(file, allow_pickle=True)),
        (by_yaml, lambda file: yaml.unsafe_load(file.read_text())),
    ):
        plant(root / "careless", flag)
        listen(lambda read=read: read(root / "careless"))
        ran.append(flag.exists())
        flag.unlink(missing_ok=True)
    return all(ran)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--works", nargs="*", default=[work.name for work in WORKS])
    picked = parser.parse_args()
    logging.getLogger("diffpo").setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))
    with tempfile.TemporaryDirectory() as root:
        works = tuple(work for work in WORKS if work.name in picked.works)
        outcomes = campaign(Path(root), picked.share, picked.seed, works)
    print(outcomes)
    print("\n".join(outcomes.worst))
    return bool(outcomes.worst)


if __name__ == "__main__":
    sys.exit(main())
