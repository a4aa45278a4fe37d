"""The addresses of objects in buckets, and the places of their local copies."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.objects import BucketPath, is_bucket_url


def root() -> Path:
    """The folder of all copies."""
    named = os.environ.get("ASCLEPIUS_CACHE")
    folder = Path(named) if named else Path("~/.cache/asclepius-jax").expanduser()
    return folder.absolute() / "buckets"


def cache() -> Path:
    """The folder of all copies, which is created if it is missing."""
    folder = root()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder} cannot be created ({error.strerror}): set ASCLEPIUS_CACHE to a folder") from error
    return folder


def local_path(url: str) -> Path:
    """The place of the copy of an object or a prefix, whether it is there or not."""
    path = BucketPath.parse(url)
    return cache() / path.scheme / path.bucket / path.key


def bucket_path(local: Path | str) -> BucketPath | None:
    """The object or prefix that a path is the copy of; None for all other paths."""
    path = Path(os.path.abspath(local))  # noqa: PTH100, `resolve` would follow links out of the copies
    if not path.is_relative_to(root()):
        return None
    scheme, _, rest = str(path.relative_to(root())).partition("/")
    bucket, _, key = rest.partition("/")
    return BucketPath(scheme, bucket, key) if scheme in ("gs", "s3") and bucket else None


def as_url(path: str) -> str:
    """The address in a bucket of a path that is a copy; any other text unchanged."""
    found = bucket_path(path) if path.startswith("/") else None
    return str(found) if found else path


def place(text: str) -> Path:
    """A path, or the place of the copy of an address in a bucket, which may not be there yet."""
    return local_path(text) if is_bucket_url(text) else Path(text)


def shown(text: str) -> str:
    """A message with the addresses of buckets in place of their local copies."""
    return re.sub(rf"{re.escape(str(root()))}/(gs|s3)/", r"\1://", text)


class Showing:
    """A stream that shows addresses of buckets in place of their local copies."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(shown(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def showing_addresses() -> Iterator[None]:
    out, err = Showing(sys.stdout), Showing(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
