import signal
import sys

import pytest
from started import HELPERS, started
from tiny_embedders import Means, compared

from diffpo.annotators.embedders.chat import ChatEmbedder
from diffpo.annotators.embedders.pooled import PooledDifference
from diffpo.cli.command import launch, parse
from diffpo.commands import embed_users
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.diffusion.users.embeddings import UserEmbeddings

USERS = {f"user{n}": 2 + 2 * (n % 2) for n in range(5)}  # 7 chunks of two pairs in 4 files


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("data") / "pairs.parquet", USERS)


@pytest.fixture(scope="module")
def killed(pairs, tmp_path_factory):
    """Users that one process began to embed until it was killed, and that two processes went on with."""
    root = tmp_path_factory.mktemp("killed")
    work = [HELPERS / "embedding_until.py", pairs, root / "out", root / "log"]
    assert started(*work, 2) == [-signal.SIGKILL]
    with pytest.raises(Refusal, match="users.json is missing"):
        _ = UserEmbeddings(str(root / "out")).tokens
    assert started(*work, 0, processes=2) == [0, 0]
    return root


def test_after_a_kill_two_processes_embed_the_rest_and_leave_nobody_out(killed):
    """Three files for two processes: their share is not even."""
    said = (killed / "log").read_text().splitlines()
    assert len(said) == len(set(said)) == 7
    assert sorted(int(file.read_text()) for file in killed.glob("log.*")) == [1, 2, 2]
    assert UserEmbeddings(str(killed / "out")).users == tuple(sorted(USERS))


def test_files_are_those_of_one_process_that_was_never_stopped(killed, pairs, tmp_path):
    embed_users.main(Means(), Columns(pairs), tmp_path / "out", shots=2)
    one, two = ({file.name: file.read_bytes() for file in (root / "out").glob("[!.]*")} for root in (tmp_path, killed))
    assert len([name for name in one if name.endswith(".safetensors")]) == 4
    assert {"config.yaml", "users.json", "users.parquet"} < set(one)
    assert one == two


def arguments(pairs, output_dir, *overrides: str) -> list[str]:
    clip = ["--embedder=diffpo.annotators.PooledDifference", "--embedder.clip.path=assets/tiny-clip"]
    return [
        "--source=diffpo.data.Columns",
        f"--source.path={pairs}",
        f"--output_dir={output_dir}",
        *clip,
        *overrides,
    ]


def embed(pairs, output_dir, *overrides: str) -> None:
    chosen, settings = parse(embed_users.main, arguments(pairs, output_dir, *overrides))
    embed_users.main(**chosen, settings=settings)


def test_users_are_embedded_and_told_apart_from_the_command_line(tmp_path, capsys):
    source = compared(tmp_path / "pairs.parquet", {"a": 3, "b": 3})
    flags = ["--shots=1", "--classify=true"]
    embed(source, tmp_path / "out", *flags)
    told = capsys.readouterr().out
    assert (
        "6 embeddings of 2 users, each of 1 pairs: 3 tokens of width 64 by PooledDifference (assets/tiny-clip)" in told
    )
    assert "one of 2 users in" in told
    assert "(chance 50.0%), to one of five in 100.0% (chance 100.0%)." in told
    embed(source, tmp_path / "out", *flags)
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'} was finished already, nothing was embedded.")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--user=who"], "user names the column 'who', the source has"),
        (["--shots=9"], "None of 5 users in column 'user_id' has 9 pairs with a winner"),
        (["--dtype=int8"], "dtype"),
        (["--embedder.clip.path=no/such"], "'no/such'"),
        (["--embedder=diffpo.annotators.ChatEmbedder", "--embedder.path=assets/tiny-clip"],
         "is a clip, ChatEmbedder needs an image-text-to-text model"),
        (["--batch_size=0"], "batch_size must be at least 1, got 0"),
    ],
    ids=["column", "shots", "dtype", "weights", "kind", "batch"],
)  # fmt: skip
def test_bad_input_is_told_in_a_line(pairs, tmp_path, monkeypatch, capsys, overrides, message):
    monkeypatch.setattr(sys, "argv", ["embed_users.py", *arguments(pairs, tmp_path / "out", *overrides)])
    with pytest.raises(SystemExit):
        launch(embed_users.main)
    told = capsys.readouterr().err
    assert message in told[told.rindex("error: ") :]


@pytest.mark.parametrize(
    ("name", "kind"), [("embed", ChatEmbedder), ("embed_tiny", PooledDifference)], ids=["chat", "pooled"]
)
def test_a_config_parses_and_its_resolved_form_is_itself(name, kind, tmp_path):
    chosen, settings = parse(embed_users.main, [f"--config=configs/annotate/{name}.yaml", "--output_dir=out"])
    (tmp_path / "config.yaml").write_text(settings)
    assert parse(embed_users.main, [f"--config={tmp_path / 'config.yaml'}"])[1] == settings
    assert type(chosen["embedder"]) is kind
