"""An exported folder onto the Hugging Face hub: private unless asked otherwise, resumed where it was interrupted."""

import json
from pathlib import Path

from data_prep.folders import MANIFEST
from data_prep.records import UserError

# Beside the files of weights that the manifest names. Nothing else that lies in the folder leaves the machine.
TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
    "README.md",
    MANIFEST,
)


def push(folder: Path, repo: str, public: bool) -> None:
    """Create the repository where there is none, and bring the folder's files there; files that are there already are
    not sent again. The token is that of the environment (HF_TOKEN) or of `hf auth login`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    files = [file["name"] for file in manifest["files"]]
    api = HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.repo_info(repo).private:
            raise UserError(f"--push {repo} is a public repository: name another one, or agree with --public")
        told = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[*files, *TEXTS],
            commit_message=f"Step {manifest['step']}, {manifest['dtype']}, by asclepius-jax",
        )
    except (HTTPError, OSError, RuntimeError, HFValidationError) as error:  # RuntimeError: of the upload in Rust
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--push {repo} did not work ({reason}): look at the name, HF_TOKEN and the network, and run this again; "
            "what is there already is not sent again"
        ) from error
    print(f"pushed {folder} to {told.commit_url if told else repo}", flush=True)
