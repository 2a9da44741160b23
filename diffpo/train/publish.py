"""A finished run on the hub: checked before training, uploaded after it."""

import glob
import shlex
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from diffpo.core.refusal import Refusal
from diffpo.storage.digests import FILES
from diffpo.train.state.best import BEST

PARTS = (FILES, "README.md", "config.yaml", "metrics.jsonl", "report.json", BEST, "before_after.png", "*.safetensors")
FOLDERS = ("unet/*", "transformer/*", "images/*")


@dataclass(frozen=True)
class Publish:
    """Upload what a run leaves: weights and their digests, model card with its pictures, config, metrics and report.

    Checkpoints, trackers' files and the pictures of an evaluation stay where they are. The config and the command in
    the model card name local paths.

    Args:
        repo: name of a model repository, e.g. me/my-lora; it is created if there is none.
        private: only you can see it. A repository that is public already is refused.
        dry_run: list what would be uploaded, and upload nothing; needs no network.

    Raises:
        Refusal: if `repo` cannot be the name of a repository.
    """

    repo: str
    private: bool = False
    dry_run: bool = False

    def __post_init__(self):
        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise Refusal(f"publish.repo {self.repo!r} cannot be a name on the hub ({join_lines(error)}).") from error

    def check(self) -> None:
        """Refuse before training what would fail after it; one process has to call this.

        Raises:
            Refusal: if nobody is logged in, the hub cannot be reached, the login may not write to `repo`, or the
                repository is public and `private` is asked for.
        """
        if self.dry_run:
            return
        api = HfApi()
        try:
            me = api.whoami()
            public = self.private and api.repo_exists(self.repo) and not api.model_info(self.repo).private
        except LocalTokenNotFoundError as error:
            raise Refusal(f"Nobody is logged in to upload to {self.repo}; run `hf auth login` first.") from error
        except (OSError, HTTPError) as error:
            remedy = (
                "run `hf auth login` again" if is_refused(error) else "check the network, or train without publish"
            )
            raise Refusal(f"{self.repo} cannot be checked on the hub ({join_lines(error)}); {remedy}.") from error
        owner, known = self.repo.split("/")[0], [me["name"], *(group["name"] for group in me["orgs"])]
        if "/" in self.repo and owner not in known:
            raise Refusal(f"publish.repo {self.repo} belongs to {owner}, the login to {', '.join(known)}; use those.")
        if me["auth"].get("accessToken", {}).get("role") == "read":
            raise Refusal(f"The login may only read; run `hf auth login` with a token that may write {self.repo}.")
        if public:
            raise Refusal(f"{self.repo} is public already; choose another publish.repo, or publish.private false.")

    def __call__(self, folder: Path) -> None:
        """Upload a run and print where it is; one process has to call this.

        Raises:
            Refusal: if the upload failed. The run is complete in `folder` all the same.
        """
        files = list_uploads(folder)
        if self.dry_run:
            listed = "\n".join(f"  {file.relative_to(folder)}  {format_size(file.stat().st_size)}" for file in files)
            print(f"dry run, nothing is uploaded; {self.repo} would get {list_files(files)} from {folder}:\n{listed}")
            return
        names = [glob.escape(str(file.relative_to(folder))) for file in files]
        api = HfApi()
        try:
            url = api.create_repo(self.repo, private=self.private, exist_ok=True)
            api.upload_folder(repo_id=self.repo, folder_path=folder, allow_patterns=names)
        # Transfers of large files end in RuntimeErrors, a card that the hub rejects in a ValueError.
        except (OSError, HTTPError, RuntimeError, ValueError) as error:
            command = ["hf", "upload", self.repo, str(folder), ".", *(["--private"] if self.private else [])]
            command += [part for name in names for part in ("--include", name)]
            raise Refusal(
                f"{folder} is complete, but its upload to {self.repo} failed ({join_lines(error)}); do it by hand "
                "with: "
                f"{shlex.join(command)}"
            ) from error
        print(f"{list_files(files)} uploaded to {url}")


def list_uploads(folder: Path) -> list[Path]:
    """What is uploaded of a run: of the previews, only the newest, which the model card shows."""
    found = [file for pattern in (*PARTS, *FOLDERS) for file in sorted(folder.glob(pattern)) if file.is_file()]
    return found + sorted(folder.glob("previews/step-*.png"))[-1:]


def list_files(files: list[Path]) -> str:
    return f"{len(files)} files ({format_size(sum(file.stat().st_size for file in files))})"


def format_size(n: int) -> str:
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"


def is_refused(error: Exception) -> bool:
    return isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)


def join_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
