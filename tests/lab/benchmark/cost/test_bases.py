from pathlib import Path

import pytest
import torch
from tiny_families import flux, pixart
from torch import nn

from diffpo.diffusion.base.quantize import quantized_layers
from diffpo.diffusion.families.flux import Flux
from diffpo.diffusion.families.pixart_sigma import PixArtSigma
from diffpo.diffusion.model.lora import LoRA
from diffpo.lab.benchmark.cost.bases import (
    BYTES,
    FULL,
    GIB,
    LORA,
    RANK,
    count_activations,
    count_adapters,
    count_parameters,
    count_pass,
    count_published,
    count_stored,
    count_ways,
    list_tensors,
    make_network,
    write_table,
)
from diffpo.lab.benchmark.cost.published_bases import BASES, PublishedBase
from diffpo.lab.benchmark.measurements.count import MARK, main

PAGE = Path(__file__).parents[4] / "docs" / "bases.md"
STATES = {"prompt": (24, 32)}


def tiny(depth: int) -> PublishedBase:
    config = dict(pixart().transformer.config) | {"num_layers": depth}
    sizes = {name: value for name, value in config.items() if not name.startswith("_")}
    return PublishedBase("tiny", PixArtSigma(), sizes, (), 0.0, (4, 8, 8), STATES, mask=24)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_networks_have_as_many_parameters_as_their_publishers_say(base):
    assert count_published(make_network(base)) / 1e9 == pytest.approx(base.billions, rel=0.04)


def test_bytes_of_a_frozen_network_are_those_of_its_layers():
    network = flux().transformer
    few = sum(layer.weight.numel() for layer in quantized_layers(network).values())
    matrices = sum(
        p.numel() for layer in network.modules() if isinstance(layer, nn.Linear) for p in layer.parameters()
    )
    others = count_parameters(network) - matrices
    for kind, size in BYTES.items():
        stored, _ = count_stored(flux().transformer, kind)
        assert stored == size * few + 2 * (matrices - few) + 4 * others


def test_unpacked_weights_are_those_of_a_block_or_of_a_layer():
    layers = quantized_layers(flux().transformer)
    blocks = [
        sum(layer.weight.numel() for name, layer in layers.items() if name.startswith(block))
        for block in ("transformer_blocks.0.", "single_transformer_blocks.0.")
    ]
    assert count_stored(flux().transformer, "bf16")[1] == 0
    assert count_stored(flux().transformer, "int8")[1] == 2 * max(blocks)
    assert count_stored(flux().transformer, "nf4")[1] == 2 * max(layer.weight.numel() for layer in layers.values())


def test_adapters_are_those_that_a_lora_attaches():
    network = flux().transformer
    base = PublishedBase("tiny", Flux(), {}, (), 0.0, (4, 8, 8), STATES)
    counted = count_adapters(base, network)
    LoRA(rank=RANK).suited(base.family.lora_layers(network)).attach(network)
    assert counted == sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("lora", [True, False], ids=["LoRA", "full"])
def test_activations_of_two_blocks_and_of_three_tell_those_of_many(lora):
    assert count_activations(tiny(6), lora) == max(count_pass(tiny(6), {"num_layers": 6}, lora))


def test_activations_of_two_lists_of_blocks_tell_those_of_many():
    config = dict(flux().transformer.config) | {"num_layers": 4, "num_single_layers": 10}
    sizes = {name: value for name, value in config.items() if not name.startswith("_")}
    states = {"prompt": (16, 32), "pooled": (32,)}
    depths = "num_layers", "num_single_layers"
    base = PublishedBase("tiny", Flux(), sizes, (), 0.0, (4, 8, 8), states, depths)
    assert count_activations(base, True) == max(count_pass(base, {}, True))


def test_what_is_trained_has_gradients_and_moments_and_only_full_tuning_a_second_network():
    ways = count_ways(tiny(2))
    full, lora, few = ways[FULL, "bf16"], ways[LORA, "bf16"], ways[LORA, "nf4"]
    n = count_parameters(make_network(tiny(2)))
    places = sum(buffer.nbytes for buffer in make_network(tiny(2)).buffers())
    assert (full.weights, full.gradients, full.optimizer) == ((4 * n + places) / GIB, 4 * n / GIB, 8 * n / GIB)
    assert lora.reference == few.reference == 0 < full.reference < full.weights
    assert few.weights < lora.weights
    assert lora.encoded == pytest.approx(lora.weights + lora.gradients + lora.optimizer + lora.activations)


def test_the_table_of_the_docs_is_what_is_counted():
    table = PAGE.read_text().split(MARK)[1].strip()
    head, line, *rows = table.split("\n")
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == set(BASES)
    assert write_table({"pixart-sigma": count_ways(BASES["pixart-sigma"])}).split("\n") == [
        head,
        line,
        *[row for row in rows if row.startswith("| pixart-sigma ")],
    ]
    cells = (row.removeprefix("| ").split(" | ") for row in rows)
    told = {(name, trained, kind): weights for name, _, trained, kind, weights, *_ in cells}
    for name, base in BASES.items():  # of the others, all but what their passes take, which would be minutes
        network = make_network(base)
        counted = {(name, FULL, "bf16"): sum(tensor.nbytes for _, tensor in list_tensors(network))}
        adapters = 4 * count_adapters(base, network)
        counted |= {(name, LORA, kind): count_stored(network, kind)[0] + adapters for kind in BYTES}
        assert {row: told.pop(row) for row in counted} == {row: f"{x / GIB:.1f}" for row, x in counted.items()}
    assert not told


def test_an_unknown_base(capsys):
    with pytest.raises(SystemExit):
        main(["sd9"])
    assert "no base 'sd9' is counted; there are sd35-medium, " in capsys.readouterr().err


def test_the_table_goes_between_the_marks_of_a_page(tmp_path, monkeypatch):
    monkeypatch.setitem(BASES, "tiny", tiny(2))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARK}\nold\n{MARK}\nafter\n")
    main(["tiny", "--page", str(page)])
    before, table, after = page.read_text().split(MARK)
    assert (before, after) == ("before\n", "\nafter\n")
    assert "old" not in table
    assert table.count("| tiny |") == 4


def test_on_the_meta_device_nothing_is_allocated():
    assert {p.device for p in make_network(BASES["pixart-sigma"]).parameters()} == {torch.device("meta")}
