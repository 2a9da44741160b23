import pytest
import yaml
from tiny_losses import PROBABILITY, SURROGATE

from diffpo.cli.command import parse
from diffpo.core.pair import PairLoss
from diffpo.losses.likelihood import Hellinger, ImplicitReward
from diffpo.losses.logistic import ODPO, Difference
from diffpo.losses.two_sided import BCO


def program(loss: PairLoss, settings: str = "") -> None: ...


def parsed(*args: str) -> tuple[PairLoss, str]:
    arguments, settings = parse(program, list(args))
    return arguments["loss"], settings


@pytest.mark.parametrize("kind", sorted({type(loss) for loss in [*SURROGATE, *PROBABILITY]}, key=lambda k: k.__name__))
def test_a_loss_is_named_by_its_path_and_survives_its_own_settings(kind, tmp_path):
    sum_of_one = {"terms": [{"class_path": "diffpo.losses.Sigmoid"}], "coefs": [2.0]}
    init = {"Sum": sum_of_one, "Confidence": {"inner": sum_of_one["terms"][0]}, "AutoBeta": {"high": 3.0}}.get(
        kind.__name__, {}
    )
    inner = {"inner": sum_of_one["terms"][0]} if kind.__name__ == "LengthNormalised" else init
    spec = {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": inner}
    (tmp_path / "loss.yaml").write_text(yaml.safe_dump({"loss": spec}))
    loss, settings = parsed("--config", str(tmp_path / "loss.yaml"))
    (tmp_path / "again.yaml").write_text(settings)
    assert type(loss) is kind
    assert parsed("--config", str(tmp_path / "again.yaml"))[0] == loss


@pytest.mark.parametrize(
    ("args", "want"),
    [
        (["diffpo.losses.BCO", "--loss.beta=0.3"], BCO(0.3)),
        (["diffpo.losses.ODPO", "--loss.gap=diffpo.losses.Difference"], ODPO(gap=Difference())),
        (
            ["diffpo.losses.ImplicitReward", "--loss.phi=diffpo.losses.Hellinger"],
            ImplicitReward(phi=Hellinger()),
        ),
    ],
)
def test_a_loss_and_its_parts_are_set_on_the_command_line(args, want):
    assert parsed("--loss", *args)[0] == want
