"""A finished folder onto the Hugging Face hub: private unless asked otherwise, resumed where it was interrupted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.records import UserError

# Its names of licences that allow publication.
LICENCES = {
    "apache-2.0": "apache-2.0",
    "cc by": "cc-by-4.0",
    "cc by 4.0": "cc-by-4.0",
    "cc by-sa 4.0": "cc-by-sa-4.0",
    "cc by-nc 4.0": "cc-by-nc-4.0",
    "cc by-nc-sa 4.0": "cc-by-nc-sa-4.0",
    "cc by-nc-nd 4.0": "cc-by-nc-nd-4.0",
    "cc0": "cc0-1.0",
    "cc0 1.0": "cc0-1.0",
    "cc0-1.0": "cc0-1.0",
    "mit": "mit",
}
OTHER = "other"


def hub_name(licence: str) -> str:
    return LICENCES.get(" ".join(licence.lower().split()), OTHER)


@dataclass(frozen=True)
class Target:
    repo: str  # NAME/REPO
    kind: Literal["model", "dataset"]
    public: bool


def push(folder: Path, target: Target, names: list[str], message: str) -> None:
    """Create the repository where there is none, and bring the files of these names there, and nothing else that lies
    in the folder; what is there already is not sent again. The token is that of the environment (HF_TOKEN) or of
    `hf auth login`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    api = HfApi()
    repo = target.repo
    try:
        api.create_repo(repo, private=not target.public, exist_ok=True, repo_type=target.kind)
        if not target.public and not api.repo_info(repo, repo_type=target.kind).private:
            raise UserError(f"--push {repo} is a public repository: name another one, or agree with --public")
        told = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=names, commit_message=message, repo_type=target.kind
        )
    except (HTTPError, OSError, RuntimeError, HFValidationError) as error:  # RuntimeError: of the upload in Rust
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--push {repo} did not work ({reason}): look at the name, HF_TOKEN and the network, and run this again; "
            "what is there already is not sent again"
        ) from error
    print(f"pushed {folder} to {told.commit_url if told else repo}", flush=True)
