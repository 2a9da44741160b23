from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import AdamW

pytest.importorskip("trl")

from diffpo.lab.benchmark.ways import texts as benchmark
from diffpo.lab.benchmark.ways.loops import Loop
from diffpo.lab.benchmark.ways.ours import any_precision
from diffpo.lab.benchmark.ways.texts import OURS, THEIRS, WAYS, TextCase


def test_both_ways_minimise_the_same_loss_in_the_same_way(monkeypatch):
    """Else their speed would not compare. One text, so that the order of texts plays no role."""
    monkeypatch.setattr(benchmark, "OPTIMIZER", partial(AdamW, lr=1e-2, weight_decay=0.0))
    monkeypatch.setattr(benchmark, "LOG_EVERY", 1)
    texts = TextCase("micro", 2, 4, 12, precomputed=False, checkpointing=False).texts(1)[:1]
    monkeypatch.setattr(TextCase, "texts", lambda self, steps: texts * (steps * self.pairs))
    case = TextCase("micro", 2, 4, 12, precomputed=False, checkpointing=False)
    found: dict[str, list[float]] = {}
    for name, way in WAYS.items():
        losses: list[float] = []
        with any_precision():
            loop = Loop(partial(way, case, torch.device("cpu"), 3, losses))
            loop()
            loop.end()
        found[name] = losses
    assert found[OURS][-1] < 0.6 < found[OURS][0]
    np.testing.assert_allclose(found[OURS], found[THEIRS], atol=1e-4)  # TRL rounds what it logs
