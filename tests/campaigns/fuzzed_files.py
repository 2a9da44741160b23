"""Configs, tables and LoRA files, mutated by a seed: each is read or refused in one line, and nothing is a traceback.

python tests/campaigns/fuzzed_files.py --tries 400
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cache
from io import BytesIO
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).parents[1]
    sys.path[:0] = [str(tests.parent / "scripts"), *(str(tests / name) for name in ("", "helpers", "scripts"))]

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tiny
from campaigns.fuzzed_pictures import MUTATIONS, Rng
from campaigns.outcomes import Outcomes, listen
from safetensors.torch import load, save, save_file
from shards import png, shard
from tiny_loras import DIFFUSERS, PEFT, layers_of, written

from diffpo.cli.command import parse
from diffpo.commands import train as train_diffusion_dpo
from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.data.layouts import Columns, PickAPicShards
from diffpo.data.pairs import PairTable
from diffpo.data.streams import PairStream
from diffpo.diffusion.model.lora import WarmLoRA
from diffpo.evaluation.prompts import Prompts

ROWS = ("read", "refused", "silent")  # silent is a traceback, or an error of several lines
ODD = (
    "null",
    "[]",
    "{}",
    "-1",
    "1e999",
    ".nan",
    "true",
    '"x"',
    "\x00",
    "'",
    "!!python/none",
    "&a [*a]",
    "9" * 40,
    "é",
)
SCALAR = re.compile(rb"(?<=[:\-,\[]) *[\w./\"-]+")

Read = Callable[[Path], object]


def odd_value(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """A value of a text becomes one of another type."""
    places = [found.span() for found in SCALAR.finditer(content)]
    if not places:
        return content
    begin, end = places[rng.integers(len(places))]
    return content[:begin] + b" " + ODD[rng.integers(len(ODD))].encode() + content[end:]


def moved_line(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """A line is taken out, indented, or put elsewhere."""
    lines = content.split(b"\n")
    line = lines.pop(rng.integers(len(lines)))
    if (way := rng.integers(3)) and lines:
        lines.insert(rng.integers(len(lines)), b"  " + line if way == 1 else line)
    return b"\n".join(lines)


def other_header(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """The header of a safetensors file is mutated as a text and stays as long as the file says."""
    size = int.from_bytes(content[:8], "little")
    if not 0 < size <= len(content) - 8:
        return content
    change = (odd_value, *MUTATIONS)[rng.integers(1 + len(MUTATIONS))]
    header = change(content[8 : 8 + size], rng, [content[8 : 8 + size]])
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def other_tensor(content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """A tensor of a safetensors file gets another name, shape or type, or is left out, as somebody's tool may do."""
    try:
        tensors = load(content)
    except Exception:  # mutated before
        return content
    name = list(tensors)[rng.integers(len(tensors))]
    tensor = tensors.pop(name)
    ways = (
        lambda: {},
        lambda: {name.replace("lora", "lorb"): tensor},
        lambda: {name: tensor.flatten()},
        lambda: {name: tensor[None]},
        lambda: {name: tensor[:0]},
        lambda: {name: tensor.long()},
        lambda: {name: tensor.new_full(tensor.shape, float("nan"))},
        lambda: {name: tensor.half(), f"{name}.alpha": tensor},
        lambda: {name.upper(): tensor, "x": tensor[..., :1].clone()},
    )
    return save({**tensors, **{key: some.contiguous() for key, some in ways[rng.integers(len(ways))]().items()}})


TEXT = (odd_value, moved_line, *MUTATIONS)
TENSORS = (other_tensor, other_tensor, other_header, other_header, *MUTATIONS)


def read_pairs(table: PairTable) -> None:
    for number in range(len(table)):
        for candidate in table[number].candidates:
            with suppress(BrokenImage):
                read_image(candidate.read(), candidate.folder)


def columns(file: Path) -> None:
    """As a table, and as a stream."""
    source = Columns(str(file))
    listen_to(lambda: read_pairs(PairTable(source, [], 0)))
    next(PairStream(source, [], 0, 4).visits())


def shards(file: Path) -> None:
    listen_to(lambda: read_pairs(PairTable(PickAPicShards(str(file)), [], 0)))
    next(PairStream(PickAPicShards(str(file)), [], 0, 4).visits())


def listen_to(work: Callable[[], object]) -> None:
    """Go on after a refusal: there is more to read in another way."""
    try:
        work()
    except Refusal as refusal:
        require_one_line(refusal)


def require_one_line(refusal: Refusal) -> None:
    assert "\n" not in str(refusal).strip(), f"an error of several lines: {refusal}"


@cache
def network():
    return tiny.unet()


def adapters(file: Path) -> None:
    WarmLoRA(str(file)).attach(deepcopy(network()))


def config(file: Path) -> None:
    parse(train_diffusion_dpo.main, ["--config", str(file), "--output_dir=nowhere"])


def prompts(file: Path) -> None:
    Prompts(str(file)).read()


def originals() -> dict[str, tuple[list[bytes], tuple, Read]]:
    """Whole files by their kind, with how they are mutated and who reads them."""
    table = pa.table(
        {
            "prompt": ["a red circle", "a blue cross", "a cat, sitting"],
            "chosen": [png(seed=n, size=(8, 8)) for n in range(3)],
            "rejected": [png("black", size=(8, 8))] * 3,
            "prob": [1.0, 0.5, 0.75],
        }
    )
    texts = [{"prompt": f"p{n}", "chosen": "yes, é", "rejected": "no", "prob": 0.5 + 0.25 * n} for n in range(3)]
    parquet, arrow = BytesIO(), BytesIO()
    pq.write_table(table, parquet)
    with pa.ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table)
    csv = "prompt,chosen,rejected,prob\n" + "".join(f'{t["prompt"]},"{t["chosen"]}",no,{t["prob"]}\n' for t in texts)
    lines = "".join(f"{json.dumps(text)}\n" for text in texts).encode()
    tar = {"jpg_0.jpg": png(), "jpg_1.jpg": png("blue"), "label_0.txt": b"1", "original_prompt.txt": b"a cat"}
    with tempfile.TemporaryDirectory() as folder:
        archive = shard(Path(folder) / "a.tar", [tar] * 2).read_bytes()
        loras = []
        for layout in (PEFT, DIFFUSERS):
            save_file(written(layers_of(network()), layout), Path(folder) / "a")
            loras.append((Path(folder) / "a").read_bytes())
    yamls = [file.read_bytes() for file in sorted(Path("configs/diffusion").glob("*sd15.yaml"))]
    return {
        "yaml": ([*yamls, Path("configs/quickstart.yaml").read_bytes()], TEXT, config),
        "jsonl": ([lines], TEXT, columns),
        "json": ([json.dumps(texts).encode()], TEXT, columns),
        "csv": ([csv.encode()], TEXT, columns),
        "parquet": ([parquet.getvalue()], MUTATIONS, columns),
        "arrow": ([arrow.getvalue()], MUTATIONS, columns),
        "tar": ([archive], MUTATIONS, shards),
        "prompts.json": ([json.dumps(texts).encode()], TEXT, prompts),
        "safetensors": (loras, TENSORS, adapters),
    }


def campaign(tries: int, seed: int = 0, keep: Path | None = None, only: Sequence[str] = ()) -> Outcomes:
    """Outcomes by kind of file.

    Args:
        tries: of each kind.
        keep: gets the files that did what they must not.
        only: kinds; nothing is all.
    """
    outcomes, rng = Outcomes(ROWS), np.random.default_rng(seed)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        kinds = originals()
        for kind in only or kinds:
            whole, mutations, read = kinds[kind]
            for number in range(-1, tries):
                content = whole[rng.integers(len(whole))]
                for _ in range(rng.integers(1, 3) if number >= 0 else 0):
                    content = mutations[rng.integers(len(mutations))](content, rng, whole) or b"\0"
                file = Path(folder) / f"{number}.{kind}"
                file.write_bytes(content)
                row, why = outcome(read, file)
                assert number >= 0 or row == "read", (kind, why)
                if number >= 0:
                    outcomes.add(kind, row, f"number {number} of seed {seed}: {why}")
                if row == "silent" and keep:
                    (keep / file.name).write_bytes(content)
                file.unlink()
    return outcomes


def outcome(read: Read, file: Path) -> tuple[str, str]:
    """What becomes of a file, and why."""
    heard = listen(lambda: read(file))
    if heard.fault:
        return "silent", heard.fault.strip()
    return ("refused" if heard.code else "read"), "; ".join(heard.lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tries", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that did what they must not")
    parser.add_argument("--only", nargs="*", default=[])
    chosen = parser.parse_args()
    outcomes = campaign(chosen.tries, chosen.seed, chosen.keep, chosen.only)
    print(outcomes)
    print("\n".join(outcomes.worst))
    return bool(outcomes.worst)


if __name__ == "__main__":
    sys.exit(main())
