import re
import shlex
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from diffpo.core.refusal import Refusal
from diffpo.train import publish
from diffpo.train.publish import Publish, list_uploads

UPLOADED = [
    "README.md",
    "config.yaml",
    "metrics.jsonl",
    "report.json",
    "before_after.png",
    "pytorch_lora_weights.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "images/0.png",
    "previews/step-000200.png",
]
KEPT = [
    "checkpoint-000100/trainable.safetensors",
    "checkpoint-000100/config.yaml",
    "partial/trainable.safetensors",
    "diffpo/events.out.tfevents.1",
    "evaluation/base/00000.png",
    "previews/step-000000.png",
    "log.txt",
]


class Hub:
    """Remembers what it is asked; `me` may be an error, and `failing` is what an upload ends in."""

    def __init__(self, me=None, failing: Exception | None = None, repos: dict[str, bool] | None = None):
        self.me = me or login()
        self.failing, self.repos, self.asked = failing, repos or {}, []

    def whoami(self):
        if isinstance(self.me, Exception):
            raise self.me
        return self.me

    def repo_exists(self, repo):
        return repo in self.repos

    def model_info(self, repo):
        return SimpleNamespace(private=self.repos[repo])

    def create_repo(self, repo, private, exist_ok):
        self.asked.append(("create", repo, private, exist_ok))
        return f"https://hub/{repo}"

    def upload_folder(self, repo_id, folder_path, allow_patterns):
        if self.failing:
            raise self.failing
        self.asked.append(("upload", repo_id, folder_path, allow_patterns))


def login(role: str = "write", orgs: tuple[str, ...] = ("us",)) -> dict:
    return {"name": "me", "orgs": [{"name": name} for name in orgs], "auth": {"accessToken": {"role": role}}}


def http(status: int) -> HfHubHTTPError:
    return HfHubHTTPError(f"{status}\nno", response=SimpleNamespace(status_code=status, headers={}, request=None))


@pytest.fixture
def run(tmp_path):
    for name in UPLOADED + KEPT:
        file = tmp_path / "run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 512)
    return tmp_path / "run"


@pytest.fixture
def connected(monkeypatch):
    def connect(hub: Hub | None) -> Hub | None:
        monkeypatch.setattr(publish, "HfApi", lambda: hub or pytest.fail("the hub was asked"))
        return hub

    return connect


def test_results_are_uploaded_and_checkpoints_trackers_and_evaluation_are_not(run):
    assert [str(file.relative_to(run)) for file in list_uploads(run)] == UPLOADED


def test_exactly_these_files_go_to_the_repository(run, connected, capsys):
    hub = connected(Hub())
    Publish("me/mine", private=True)(run)
    assert hub.asked == [("create", "me/mine", True, True), ("upload", "me/mine", run, UPLOADED)]
    assert capsys.readouterr().out == "10 files (5.0 KiB) uploaded to https://hub/me/mine\n"


def test_a_file_name_is_not_taken_for_a_pattern(run, connected):
    (run / "a[1].safetensors").touch()
    hub = connected(Hub())
    Publish("me/mine")(run)
    assert "a[[]1].safetensors" in hub.asked[1][3]


def test_a_dry_run_lists_files_and_sizes_and_asks_nobody(run, connected, capsys):
    connected(None)
    rehearsal = Publish("me/mine", dry_run=True)
    rehearsal.check()
    rehearsal(run)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"dry run, nothing is uploaded; me/mine would get 10 files (5.0 KiB) from {run}:"
    assert told[1:] == [f"  {name}  0.5 KiB" for name in UPLOADED]


@pytest.mark.parametrize("name", ["a/b/c", "me/my--lora", "me/my lora", "", "me/x.git"])
def test_a_name_that_the_hub_cannot_have_is_refused_at_once(name):
    with pytest.raises(Refusal, match=re.escape(f"publish.repo {name!r} cannot be a name on the hub")):
        Publish(name)


@pytest.mark.parametrize(
    ("hub", "message"),
    [
        (Hub(LocalTokenNotFoundError()), "Nobody is logged in .*run `hf auth login` first"),
        (Hub(http(401)), r"cannot be checked on the hub \(401 no.*run `hf auth login` again"),
        (Hub(http(503)), "503.*check the network"),
        (Hub(OfflineModeIsEnabled("offline")), "offline.*check the network"),
        (Hub(HTTPError("no\nroute")), "no route.*check the network"),
        (Hub(login(role="read")), "may only read"),
        (Hub(login(orgs=("us", "them"))), "other/mine belongs to other, the login to me, us, them"),
        (Hub(repos={"me/mine": False}), "me/mine is public already"),
    ],
    ids=["no token", "bad token", "hub down", "offline", "no network", "read only", "not mine", "public"],
)
def test_what_would_fail_after_training_is_refused_before_it(connected, hub, message):
    connected(hub)
    with pytest.raises(Refusal, match=message) as caught:
        Publish("other/mine" if "other/" in message else "me/mine", private=True).check()
    assert "\n" not in str(caught.value)
    assert hub.asked == []


@pytest.mark.parametrize("repo", ["me/mine", "us/mine", "mine", "me/private", "me/new"])
def test_a_repository_of_ones_own_passes(connected, repo):
    connected(Hub(repos={"me/private": True}))
    Publish(repo, private=True).check()


@pytest.mark.parametrize("error", [http(500), HTTPError("x"), RuntimeError("a\nb"), ValueError("bad card"), OSError()])
def test_a_failed_upload_loses_nothing_and_says_how_to_repeat_it(run, connected, error):
    connected(Hub(failing=error))
    with pytest.raises(Refusal, match="is complete, but its upload to me/mine failed") as caught:
        Publish("me/mine", private=True)(run)
    message = str(caught.value)
    assert "\n" not in message
    command = shlex.split(message.partition("by hand with: ")[2])
    assert command[:6] == ["hf", "upload", "me/mine", str(run), ".", "--private"]
    assert command[6::2] == ["--include"] * len(UPLOADED)
    assert command[7::2] == UPLOADED
    assert all((run / name).exists() for name in UPLOADED + KEPT)
