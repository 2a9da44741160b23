import os
import re
import subprocess
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from tiny import unet, unet_xl
from torch.distributed.fsdp import MixedPrecisionPolicy

from diffpo.core.refusal import Refusal
from diffpo.processes.launchers import autocast_type, require_joined, suit_launcher

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "accelerate"
FILES = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED"}
SLURM = (FOLDER / "slurm.sh").read_text()
SCRIPT = "scripts/train_diffusion_dpo.py"


def launched(name: str, *options: str) -> tuple[Namespace, dict[str, str]]:
    """What `accelerate launch --config_file` makes of a file: arguments, and the environment of the processes."""
    command = ["--config_file", str(FOLDER / f"{name}.yaml"), *options, SCRIPT]
    arguments, _, from_config = _validate_launch_command(launch_command_parser().parse_args(command))
    assert from_config
    arguments.deepspeed_fields_from_accelerate_config = ""
    if arguments.use_deepspeed:
        return arguments, prepare_deepspeed_cmd_env(arguments)[1]
    return arguments, prepare_multi_gpu_env(arguments)


@pytest.fixture
def environment(monkeypatch):
    """Sets what a launcher file sets, apart from what the tests run under."""

    def enter(name: str) -> None:
        for key, value in launched(name)[1].items():
            if key.startswith(("ACCELERATE_", "FSDP_")):
                monkeypatch.setenv(key, value)

    before = dict(os.environ)
    yield enter
    os.environ.clear()
    os.environ.update(before)


def accelerator(kind: DistributedType, mixed_precision: str = "bf16", **plugin) -> Mock:
    """Stands for one that was started on GPUs, and accumulates four times."""
    fake = Mock(
        spec=Accelerator, distributed_type=kind, mixed_precision=mixed_precision, gradient_accumulation_steps=4
    )
    fake.state = SimpleNamespace(**plugin)
    fake.is_fsdp2 = kind == DistributedType.FSDP and plugin["fsdp_plugin"].fsdp_version == 2
    return fake


@pytest.mark.parametrize(("name", "kind"), FILES.items())
def test_a_file_is_read_by_accelerate_without_unknown_keys(name, kind):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type, config.mixed_precision) == (DistributedType(kind), "bf16")
    assert (config.num_machines, config.num_processes) == (1, 8)


@pytest.mark.parametrize("name", FILES)
def test_every_setting_of_a_file_is_an_option_of_the_launcher(name):
    """Below the top level accelerate takes any key, and drops what it does not know."""
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    options = vars(launch_command_parser().parse_args([SCRIPT]))
    assert not {*(config.fsdp_config or {}), *(config.deepspeed_config or {})} - options.keys()


@pytest.mark.parametrize("name", FILES)
def test_a_file_launches_eight_processes_in_bf16(name):
    arguments, environment = launched(name)
    assert arguments.nproc_per_node in ("8", 8)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.mark.parametrize("name", FILES)
def test_a_header_shows_its_own_command_and_says_how_many_gpus(name):
    header = (FOLDER / f"{name}.yaml").read_text().split("compute_environment")[0]
    assert f"--config_file configs/accelerate/{name}.yaml" in header
    assert "8 GPUs of one machine" in header
    assert (ROOT / re.search(r"--config (\S+)", header)[1]).exists()


def test_fsdp2_wraps_blocks_that_every_unet_has(environment):
    environment("fsdp2")
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward
    assert str(plugin.state_dict_type).endswith("SHARDED_STATE_DICT")
    assert not plugin.cpu_ram_efficient_loading
    for network in (unet(), unet_xl()):
        plugin.set_auto_wrap_policy(network)  # refuses names that the network does not have
        found = {type(module).__name__ for module in network.modules()}
        assert {*plugin.transformer_cls_names_to_wrap} <= found


def test_deepspeed_is_told_batch_accumulation_clipping_and_autocast(environment):
    environment("deepspeed_zero2")
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision("bf16")
    suit_launcher(accelerator(DistributedType.DEEPSPEED, deepspeed_plugin=plugin), 3, 0.5)
    config = plugin.deepspeed_config
    assert plugin.zero_stage == config["zero_optimization"]["stage"] == 2
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (3, 4)
    assert config["gradient_clipping"] == 0.5
    assert not config["bf16"]["enabled"]
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}


def test_fsdp2_keeps_fp32_and_leaves_rounding_to_autocast(environment):
    environment("fsdp2")
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    suit_launcher(accelerator(DistributedType.FSDP, fsdp_plugin=plugin), 3, 0.5)
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy()


@pytest.mark.parametrize(
    ("kind", "plugin", "said"),
    [
        ("FSDP", {"fsdp_plugin": SimpleNamespace(fsdp_version=1)}, "FSDP1 is not supported; set fsdp_version: 2"),
        (
            "DEEPSPEED",
            {"deepspeed_plugin": SimpleNamespace(zero_stage=3)},
            "ZeRO-3 is not supported; set zero_stage: 2",
        ),
        ("DEEPSPEED", {"deepspeed_plugin": SimpleNamespace(zero_stage=2)}, "DeepSpeed in fp16 is not supported"),
    ],
)
def test_launchers_that_cannot_be_served_are_refused(kind, plugin, said):
    with pytest.raises(Refusal, match=said):
        suit_launcher(accelerator(DistributedType(kind), "fp16", **plugin), 1, 1.0)


@pytest.mark.parametrize(("name", "rounded"), [("no", torch.float32), ("fp16", torch.float16)])
def test_precision_is_that_of_the_launcher(name, rounded):
    assert autocast_type(accelerator(DistributedType.NO, name)) == rounded


def test_the_slurm_script_is_one_that_bash_can_read():
    assert subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], capture_output=True).returncode == 0


def test_what_the_slurm_script_names_exists():
    named = re.findall(r"\b(?:configs|scripts)/[\w/]+\.(?:yaml|py|sh)", SLURM)
    assert {SCRIPT, "configs/accelerate/ddp.yaml"} <= {*named}
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize("name", FILES)
def test_the_slurm_script_launches_its_share_of_a_machine(name):
    """Its own options, on the second of two nodes, with each launcher file."""
    (command,) = re.findall(r"accelerate launch (.*?)" + SCRIPT, SLURM, re.DOTALL)
    values = {
        "SLURM_NNODES": "2",
        "SLURM_NODEID": "1",
        "HEAD_NODE": "head",
        "HEAD_PORT": "20001",
        "LAUNCHER": "unused",
    }
    script = f"for word in {command.replace(chr(92) + chr(10), ' ')}; do echo $word; done"
    words = subprocess.run(["bash", "-c", script], env=values, capture_output=True, text=True, check=True).stdout
    arguments, _ = launched(name, *words.split()[2:])
    assert (arguments.nnodes, int(arguments.nproc_per_node), arguments.node_rank) == ("2", 8, 1)
    assert arguments.rdzv_endpoint == "head:20001"
    assert "--resume latest" in SLURM
    assert "--requeue" in SLURM


@pytest.fixture
def alone(monkeypatch):
    """Nothing that a launcher sets."""
    for name in ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


@pytest.mark.parametrize("started", [2, 8])
def test_processes_that_do_not_know_of_one_another_are_refused(alone, started):
    """torchrun on CPUs, and `accelerate launch --multi_gpu` without a GPU."""
    alone("WORLD_SIZE", str(started))
    require_joined(started)
    with pytest.raises(Refusal, match=f"{started} processes were started, .*torchrun --nproc-per-node {started}"):
        require_joined(1)


@pytest.mark.parametrize("options", [["--cpu", "--num_processes=2"], ["--cpu", "--num_processes=1"], ["--cpu"]])
def test_one_process_where_several_were_asked_for_is_said(alone, caplog, options):
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*options, SCRIPT]))
    for key, value in prepare_simple_launcher_cmd_env(arguments)[1].items():
        alone(key, value)
    require_joined(1)
    said = any(message.startswith("This is one process; if accelerate launch was") for message in caplog.messages)
    assert said == ("--num_processes=2" in options)


def test_a_process_that_was_started_by_hand_says_nothing(alone, caplog):
    require_joined(1)
    alone("MASTER_ADDR", "node7")  # as clusters set it
    require_joined(1)
    assert not caplog.messages
