"""The Hugging Face hub: a model's files from it, a finished folder onto it.

A push is private unless asked otherwise, and resumes where it was interrupted. A download is given up when nothing has
arrived for half a minute; what the cache of `huggingface_hub` holds is then used, if it is complete.
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


# Which files of a model's repository: all that is not weights (configuration, tokenizer, templates), or weights too.
# Folders in it hold the same model in other formats, and so do Mistral's consolidated files.
SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
WEIGHTS = (*SMALL_FILES, "*.safetensors")
LEFT_OUT = ("*/*", "consolidated*")
SILENCE_SECONDS = 30.0


def is_hub_id(name: str) -> bool:
    """Whether a name may be NAME/REPO on the hub; a path that exists is none, nor is one in a folder that exists."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and not Path(name).parent.exists()


def local_folder(name: str | Path, files: tuple[str, ...]) -> Path:
    """A folder as it is; of a hub id, the folder of the cache that holds these files, downloaded where it does not.

    Raises UserError, one line, where the hub has no such repository, does not let this user have it, or cannot be
    reached while the cache lacks a file.
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
    """The folder that a process of its own finds; TimeoutError where it stops telling that bytes arrive.

    The library's own threads cannot be ended while a hub does not answer, and would keep this process from ending.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_fetch, args=(name, files, from_cache, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        kind, text = ours.recv()  # it has started, however long that took
        while kind == "alive":
            if not ours.poll(SILENCE_SECONDS):
                raise TimeoutError
            kind, text = ours.recv()
    except EOFError:
        raise UserError(f"{name}: the download ended by itself; run this again, it continues") from None
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

    logging.set_verbosity_error()  # its retries; what they come to is told in one line

    class Progress(tqdm):
        told = 0.0

        def update(self, n: float | None = 1) -> Any:
            if time.monotonic() - Progress.told > 1:
                Progress.told = time.monotonic()
                connection.send(("alive", ""))
            return super().update(n)

    connection.send(("alive", ""))
    patterns = {"allow_patterns": list(files), "ignore_patterns": list(LEFT_OUT)}
    silent = f"the hub sent nothing for {SILENCE_SECONDS:.0f} s" if from_cache else "the hub cannot be reached"
    try:
        outcome = "done", snapshot_download(name, **patterns, local_files_only=from_cache, tqdm_class=Progress)
    except GatedRepoError:
        outcome = (
            "problem",
            f"{name} is gated: accept its terms on its page on the hub, then `hf auth login` or HF_TOKEN",
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
            f"{name}: no such folder, {silent}, and the cache lacks files of it: check the network, or name a local "
            "folder",
        )
    except Exception as error:  # noqa: BLE001, whatever it is, the user sees one line
        outcome = "problem", f"{name}: not to be had from the hub ({' '.join(str(error).split())[:200]})"
    connection.send(outcome)
