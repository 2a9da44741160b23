"""A million pairs against a thousand: start-up, pairs per second and memory, from a table and from a stream.

python scripts/benchmark.py scale --output_dir runs/benchmark_scale

Parquet files in the layout of Pick-a-Pic are made first: small pictures, a caption of its own for every row, ties
included. Everything is measured in fresh processes, small and large in turn. Linux only.
"""

import json
import shutil
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from itertools import islice
from multiprocessing import get_context, set_start_method
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import datasets.config
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from PIL import Image

from diffpo.data.layouts import PickAPic
from diffpo.data.sampler import ProcessShare
from diffpo.data.streams import Stream
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.objective.guard import Guard
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid
from diffpo.train.fit import Preview, fit
from diffpo.train.run import METRICS, FitConfig, open_run

BATCH = 32
WAYS = {"table": None, "stream": Stream()}
TOGETHER = 1000  # rows in a row group


def main(
    output_dir: Path,
    rows: list[int] = [1000, 1_000_000],  # noqa: B006
    shards: int = 8,
    batches: int = 60,
    steps: int = 12,
    rounds: int = 2,
    settings: str = "",
) -> None:
    """Measure small and large in turn and print the ratios.

    Args:
        output_dir: gets the files, the cache of `datasets` (both some GB) and `scale.json`.
        rows: of the files; ratios are those of the last to the first.
        shards: files of each size.
        batches: of 32 pairs that are read to find the speed of reading.
        steps: of `fit`, with 32 pairs each.
        rounds: repetitions; medians are printed.
        settings: the resolved config.
    """
    cache = output_dir / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for n in rows:
        if not (output_dir / str(n)).exists():
            write_pairs(output_dir / str(n), n, shards)
        found["table: copied from parquet, once, s"][n] = [fresh(copied, output_dir / str(n), cache)]
    for _ in range(rounds):
        for way in WAYS:
            for n in rows:
                for name, value in fresh(measure_way, output_dir / str(n), cache, way, batches, steps).items():
                    found[f"{way}: {name}"][n].append(value)
    for way in WAYS:
        found[f"{way}: first batch when resumed after half of the rows, s"] = {
            n: [fresh(resumed, output_dir / str(n), cache, way, n // 2 // BATCH)] for n in rows
        }
    for name, sizes in found.items():
        values = [median(sizes[n]) for n in rows]
        print(f"{name:62s}", *(f"{value:10.2f}" for value in values), f"{values[-1] / values[0]:8.3f}")
    (output_dir / "scale.json").write_text(json.dumps(found, indent=2))


def write_pairs(folder: Path, rows: int, shards: int) -> None:
    """Pairs from a pool of a thousand pictures, with the columns of Pick-a-Pic."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pool = pa.array([encoded(rng, "JPEG" if i % 2 else "PNG") for i in range(1024)], pa.binary())
    for shard, ids in enumerate(np.array_split(np.arange(rows), shards)):
        n, label = len(ids), rng.choice([0.0, 0.5, 1.0], size=len(ids), p=[0.45, 0.1, 0.45])
        texts = {name: [f"{name}-{i:032x}" for i in ids] for name in ("image_0_uid", "image_1_uid", "best_image_uid")}
        urls = {f"image_{k}_url": [f"https://example.com/{k}/{i}.png" for i in ids] for k in (0, 1)}
        pictures = {f"jpg_{k}": pool.take(pa.array(rng.integers(len(pool), size=n))) for k in (0, 1)}
        columns = {
            "caption": [f"a red circle on the left and a blue square on the right, number {i}" for i in ids],
            "label_0": label,
            "label_1": 1 - label,
            "created_at": ids.astype("datetime64[s]"),
            "ranking_id": ids,
            "user_id": ids % 5000,
            "num_example_per_prompt": ids % 7 + 1,
        }
        constant = {"are_different": True, "has_label": True, "model_0": "one", "model_1": "another"}
        table = pa.table(texts | urls | pictures | columns | {name: [value] * n for name, value in constant.items()})
        file = folder / f"train-{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(table, file, row_group_size=TOGETHER, use_dictionary=False)


def encoded(rng: np.random.Generator, kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).resize((32, 32)).save(buffer, kind)
    return buffer.getvalue()


def fresh(measure: Any, path: Path, cache: Path, *args: Any) -> Any:
    """What a process that has only imported its modules measures."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(run_alone, measure, path, cache, *args).result()


def run_alone(measure: Any, path: Path, cache: Path, *args: Any) -> Any:
    set_start_method("fork", force=True)  # of the workers that read
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = cache
    return measure(path, *args)


def data(path: Path, way: str) -> PairData:
    return PairData(PickAPic(str(path)), framing=Framing(32, flip=False), workers=0, stream=WAYS[way])


def copied(path: Path) -> float:
    began = time.perf_counter()
    PickAPic(str(path)).open()
    return time.perf_counter() - began


def resumed(path: Path, way: str, first: int) -> float:
    pairs = data(path, way).open()
    began = time.perf_counter()
    next(iter(pairs.batches(ProcessShare(BATCH, 0, first=first))))
    return time.perf_counter() - began


def measure_way(path: Path, way: str, batches: int, steps: int) -> dict[str, float]:
    """Start-up, speed of reading in this process and by two workers, speed and memory of training."""
    began, busy = time.perf_counter(), time.process_time()
    pairs = data(path, way).open()
    next(iter(pairs.batches(ProcessShare(BATCH, 0))))
    found = {
        "from opening to the first batch, s": time.perf_counter() - began,
        "the same, s of one core": time.process_time() - busy,
    }
    for workers in (0, 2):
        pairs.workers = workers
        walk = iter(pairs.batches(ProcessShare(BATCH, 0)))
        next(walk)
        began = time.perf_counter()
        read = sum(1 for _ in islice(walk, batches))
        found[f"pairs/s read, {workers} workers"] = read * BATCH / (time.perf_counter() - began)
        found[f"MB while reading, {workers} workers"] = memory()
        del walk
    pairs.workers = 0
    with TemporaryDirectory() as folder:
        config = FitConfig(steps=steps, batch_size=BATCH, per_device_batch_size=BATCH, log_every=1, save_every=None)
        run, scale = open_run(config, folder), Scale(steps)
        model, optimizer = StableDiffusion("assets/tiny-sd").load(run.accelerator.device), torch.optim.AdamW
        objective = DenoisingPreference(Sigmoid(beta=500.0), guard=Guard(mu=0.2))
        fit(objective, model.unet, model.reference(), pairs, model.prepare, partial(optimizer, lr=5e-5), run, scale)
        logged = [json.loads(line) for line in (Path(folder) / METRICS).read_text().splitlines()]
    speed = median(line["pairs_per_second"] for line in logged[2:])
    return found | {"pairs/s trained": speed, "MB while training": scale.read}


class Scale(Preview):
    """Weighs the process at the last step."""

    def __init__(self, every: int):
        self.every, self.read = every, 0.0

    def __call__(self, step: int, accelerator: Accelerator) -> None:
        self.read = memory()


def memory() -> float:
    """MB of this process and its workers: shared pages once, those of mapped files not at all."""
    this = psutil.Process()
    rolled = [Path(f"/proc/{process.pid}/smaps_rollup").read_text() for process in [this, *this.children()]]
    lines = [line.split() for text in rolled for line in text.splitlines()]
    return sum(int(line[1]) for line in lines if line[0] == "Pss_Anon:") / 1024
