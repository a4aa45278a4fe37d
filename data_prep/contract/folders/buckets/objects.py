"""The objects of a bucket, behind as much of `pathlib` as the rest of the package needs.

    gs://bucket/runs/pretrain       a prefix of object names, which stands for a folder
    s3://bucket/reports.csv         an object

Credentials, region and endpoint come from the environment, under the names that the clouds' own tools use, or from the
machine's metadata server. Requests that fail with a passing error are repeated for a few minutes.
"""

import contextlib
import functools
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any, TypeVar

from data_prep.contract.errors import UserError, first_line

URL = re.compile(r"(gs|s3)://([a-z0-9][a-z0-9._-]*)(?:/(.*))?")
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's service account",
}
# Another server than the cloud's own: an object store in the house, or an emulator. The names are TensorStore's.
ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "TENSORSTORE_GCS_HTTP_URL"}
RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(minutes=3)}
# For a connection and for the whole of one request; large objects are read and written in pieces of PIECE_BYTES.
CLIENT: Any = {"connect_timeout": "10s", "timeout": "5m"}
PIECE_BYTES = 2**25


T = TypeVar("T")


def is_bucket_url(text: str) -> bool:
    return text.startswith(("gs://", "s3://"))


def store_of(scheme: str, bucket: str) -> Any:
    return opened(scheme, bucket, os.environ.get(ENDPOINT[scheme], ""))


@functools.cache
def opened(scheme: str, bucket: str, endpoint: str) -> Any:
    try:
        from obstore.store import GCSStore, S3Store
    except ModuleNotFoundError as error:
        raise UserError(f"{scheme}://{bucket} needs obstore: pip install obstore") from error
    client: Any = {**CLIENT, "allow_http": endpoint.startswith("http://")}
    if scheme == "s3":
        return S3Store(bucket, client_options=client, retry_config=RETRIES)
    emulator: Any = {"base_url": endpoint, "bearer_token": "none"} if endpoint else {}
    return GCSStore(bucket, client_options=client, retry_config=RETRIES, **emulator)


@contextlib.contextmanager
def explained(url: str, doing: str) -> Iterator[None]:
    """Turn what the library raises into UserError with the URL and a remedy, but for FileNotFoundError."""
    from obstore import exceptions

    scheme = url.partition(":")[0]
    try:
        yield
    except (FileNotFoundError, exceptions.NotFoundError) as error:
        raise FileNotFoundError(f"{url}: no such object") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise UserError(f"{url}: access was denied while {doing}: set {CREDENTIALS[scheme]}") from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        text = " ".join(first_line(error).split())[:300]
        remedy = f"check the name of the bucket, the network, and {CREDENTIALS[scheme]}"
        raise UserError(f"{url} failed while {doing} ({text}): {remedy}") from error


@dataclass(frozen=True)
class Facts:
    """Size and version of an object, from a listing."""

    st_size: int
    tag: str  # changes with the content


def facts(meta: Any) -> Facts:
    return Facts(meta["size"], meta["e_tag"] or str(meta["last_modified"]))


@dataclass(frozen=True, order=True)
class BucketPath:
    """An object, or a prefix that stands for a folder. Methods are those of `pathlib.Path`."""

    scheme: str
    bucket: str
    key: str  # without a slash at either end

    @classmethod
    def parse(cls, url: str) -> "BucketPath":
        """Raises UserError for a URL without a bucket, or with parts that no folder on a disk could have."""
        match = URL.fullmatch(url)
        key = re.sub("/+", "/", match[3] or "").strip("/") if match else ""
        if not match or any(part in (".", "..") for part in key.split("/")):
            raise UserError(f"{url} is no address in a bucket: write it as gs://BUCKET/PATH or s3://BUCKET/PATH")
        return cls(match[1], match[2], key)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> "BucketPath":
        return BucketPath(self.scheme, self.bucket, f"{self.key}/{name}".strip("/"))

    @property
    def store(self) -> Any:
        return store_of(self.scheme, self.bucket)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "BucketPath":
        return BucketPath(self.scheme, self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "BucketPath":
        return self.parent / name

    def absolute(self) -> "BucketPath":
        return self

    def relative_to(self, other: "BucketPath") -> PurePosixPath:
        return PurePosixPath(self.key).relative_to(other.key)

    def stat(self) -> Facts:
        """Raises FileNotFoundError if there is no such object."""
        with explained(str(self), "looking it up"):
            return facts(self.store.head(self.key))

    def is_file(self) -> bool:
        try:
            return bool(self.key) and self.stat() is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        with explained(str(self), "listing it"):
            return any(batch for batch in self.store.list(self.key or None, chunk_size=1))

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["BucketPath"]:
        """Objects and prefixes directly below this one, in order."""
        with explained(str(self), "listing it"):
            listed = self.store.list_with_delimiter(self.key or None)
        keys = [meta["path"] for meta in listed["objects"]] + list(listed["common_prefixes"])
        yield from (BucketPath(self.scheme, self.bucket, key.strip("/")) for key in sorted(keys))

    def objects(self) -> dict["BucketPath", Facts]:
        """All objects below this prefix."""
        with explained(str(self), "listing it"):
            metas = [meta for batch in self.store.list(self.key or None, chunk_size=1000) for meta in batch]
        return {BucketPath(self.scheme, self.bucket, meta["path"]): facts(meta) for meta in metas}

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        yield from (path for path in self.objects() if PurePosixPath(path.key).match(pattern))

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """Paths directly below this one whose names match."""
        yield from (path for path in self.iterdir() if PurePosixPath(path.name).match(pattern))

    def read_bytes(self) -> bytes:
        with explained(str(self), "reading it"):
            return bytes(self.store.get(self.key).bytes())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The content of a small object as a file to read."""
        assert mode == "rb", "an object is written whole, by write_bytes"
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, data: bytes) -> str:
        """Write the object and return its tag."""
        with explained(str(self), "writing it"):
            return str(self.store.put(self.key, data)["e_tag"])

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def unlink(self) -> None:
        delete([self])

    def remove_all(self, first: Iterable[str] = ()) -> None:
        """Delete everything below this prefix, and the objects of these names before all others."""
        delete([path for name in first if (path := self / name).is_file()])
        delete([*self.objects()])


def change(path: BucketPath, changed: Callable[[bytes], tuple[bytes, T]]) -> T:
    """Replace the content of a small object by what `changed` makes of it, which may run several times.

    No change of another process is lost: the bucket refuses a write that follows one of these. The content of an object
    that is not there is empty. Returns what `changed` returns beside the new content.
    """
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    while True:
        version, before = None, b""
        if path.is_file():
            with explained(str(path), "reading it"):
                meta = path.store.head(path.key)
            version = {name: meta[name] for name in ("e_tag", "version") if meta[name]}
            before = path.read_bytes()
        after, result = changed(before)
        with contextlib.suppress(AlreadyExistsError, PreconditionError):
            path.store.put(path.key, after, mode=version or "create", use_multipart=False)
            return result


def delete(paths: list[BucketPath]) -> None:
    if paths:
        with explained(str(paths[0]), "deleting it"):
            paths[0].store.delete([path.key for path in paths])
