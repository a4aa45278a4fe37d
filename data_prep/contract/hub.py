"""Downloads of model files from the Hugging Face hub, and uploads of finished folders to it.

A push creates a private repository unless --public is set, and resumes where it was interrupted. A download times out
when no data arrives for half a minute; the `huggingface_hub` cache is then used, provided it is complete.
"""

import multiprocessing
import re
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from data_prep.contract.errors import UserError

# Hub names of the licences that allow publication.
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
    """Upload the named files of a folder, and no others, to the hub; the repository is created if it does not exist.

    Files that are already there are not sent again. Authentication uses HF_TOKEN or `hf auth login`. Raises UserError
    if the repository is public without --public, or if the upload fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    api = HfApi()
    repo = target.repo
    try:
        api.create_repo(repo, private=not target.public, exist_ok=True, repo_type=target.kind)
        if not target.public and not api.repo_info(repo, repo_type=target.kind).private:
            raise UserError(f"--push {repo} is a public repository: choose another one, or pass --public")
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=names, commit_message=message, repo_type=target.kind
        )
    except (HTTPError, OSError, RuntimeError, HFValidationError) as error:  # RuntimeError: from the uploader in Rust
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--push {repo} failed ({reason}): check the name, HF_TOKEN and the network, then run this again; "
            "files that are already there are not sent again"
        ) from error
    print(f"pushed {folder} to {commit.commit_url if commit else repo}", flush=True)


# Files to download from a model's repository: everything but weights (configuration, tokenizer, templates), or weights
# too. Subfolders, and Mistral's consolidated files, hold the same model in other formats and are skipped.
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
WEIGHTS = (*SMALL_FILES, "*.safetensors")
LEFT_OUT = ("*/*", "consolidated*")
SILENCE_SECONDS = 30.0


def is_hub_id(name: str) -> bool:
    """Return True if a name can be NAME/REPO on the hub: not an existing path, nor a path in an existing folder."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and not Path(name).parent.exists()


def local_folder(name: str | Path, files: tuple[str, ...]) -> Path:
    """The local folder of a model: a path is returned unchanged; a hub id is downloaded to the cache if needed.

    Raises UserError if the hub has no such repository, denies access to it, or cannot be reached while the cache lacks
    a file.
    """
    name = str(name)
    if not is_hub_id(name):
        return Path(name)
    try:
        return Path(_fetched(name, files, from_cache=False))
    except TimeoutError:
        folder = Path(_fetched(name, files, from_cache=True))
    print(f"{name}: the hub sent nothing for {SILENCE_SECONDS:.0f} s, using the cached copy {folder}", file=sys.stderr)
    return folder


def _fetched(name: str, files: tuple[str, ...], from_cache: bool) -> str:
    """Run `_fetch` in a subprocess and return the folder; TimeoutError if the subprocess reports no progress.

    A subprocess, because the library's threads cannot be stopped while the hub does not respond, and would keep this
    process from exiting.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_fetch, args=(name, files, from_cache, sender), daemon=True)
    process.start()
    sender.close()
    try:
        kind, text = receiver.recv()  # without a timeout: the start may take any time
        while kind == "alive":
            if not receiver.poll(SILENCE_SECONDS):
                raise TimeoutError
            kind, text = receiver.recv()
    except EOFError:
        raise UserError(f"{name}: the download process died; run this again to continue the download") from None
    finally:
        process.kill()
        process.join()
    if kind == "problem":
        raise UserError(text)
    return str(text)


def _fetch(name: str, files: tuple[str, ...], from_cache: bool, connection: Connection) -> None:
    """Send ("alive", "") at the start and while bytes arrive, then ("done", folder) or ("problem", line)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils import logging, tqdm

    logging.set_verbosity_error()  # hides its retry warnings; the outcome is reported in one line

    class Progress(tqdm):
        last_sent = 0.0

        def update(self, n: float | None = 1) -> Any:
            if time.monotonic() - Progress.last_sent > 1:
                Progress.last_sent = time.monotonic()
                connection.send(("alive", ""))
            return super().update(n)

    connection.send(("alive", ""))
    patterns = {"allow_patterns": list(files), "ignore_patterns": list(LEFT_OUT)}
    unreachable = f"the hub sent nothing for {SILENCE_SECONDS:.0f} s" if from_cache else "the hub cannot be reached"
    try:
        outcome = "done", snapshot_download(name, **patterns, local_files_only=from_cache, tqdm_class=Progress)
    except GatedRepoError:
        outcome = (
            "problem",
            f"{name} is gated: accept its terms on its hub page, then run `hf auth login` or set HF_TOKEN",
        )
    except RepositoryNotFoundError:
        outcome = (
            "problem",
            f"{name}: no such folder, and no such repository on the hub for this user (a private one needs "
            "`hf auth login` or HF_TOKEN)",
        )
    except LocalEntryNotFoundError:
        outcome = (
            "problem",
            f"{name}: no such folder, {unreachable}, and the cache is incomplete: check the network, or pass a local "
            "folder",
        )
    except Exception as error:  # noqa: BLE001, the user sees one line for any error
        outcome = "problem", f"{name}: the download from the hub failed ({' '.join(str(error).split())[:200]})"
    connection.send(outcome)
