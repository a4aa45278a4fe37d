"""Local copies of what lies in buckets: a command reads and writes them as it does any folder.

    ~/.cache/asclepius-jax/buckets/     or the folder in ASCLEPIUS_CACHE; it holds texts, so only its owner may read it
      s3/BUCKET/data/notes/...          the copy of s3://BUCKET/data/notes
      .tags/s3/BUCKET/data/notes/...    what was in the bucket when the copy was made, one small file for each object

Before a command, its inputs and what it continues are fetched, once for all processes of a host. While it runs, its
ledgers and the small files of a training run are sent every minute; at its end, all that it has changed is sent. The
manifest of a folder is sent last, and removed before any other file of its folder changes: a folder of a bucket is
there when its manifest is. The checkpoints of a training run are no copies: every host writes and reads its share of
them in the bucket, see `asclepius_jax/checkpoint/places.py`.
"""

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.contract.folders.buckets.addresses import as_url, bucket_path, cache, local_path, root
from data_prep.contract.folders.buckets.objects import PIECE_BYTES, BucketPath, Facts, delete, explained

LAST = ("manifest.json", "digests.json")  # written when the rest of a folder is there
DATABASE = ".sqlite"
BESIDE = re.compile(r"\.sqlite$|\.part-0-of-\d+$")  # of what lies beside an output, what a part of it needs
# Of this machine alone, or changed in the bucket itself.
LEFT_OUT = re.compile(r"(?:^|/)(?:\.|lock\.json)|-(?:wal|shm|journal)$|\.cost-shares\.json$")
# Read in the bucket itself, and written there by a training run; an import sends its one step like any other files.
STEPS = re.compile(r"(?:^|/)checkpoints/\d[^/]*(?:/|$)")
SEND_SECONDS = 60.0
AT_ONCE = 8  # objects transferred at the same time


# ---------------------------------------------------------------- what is known of a copy


@dataclasses.dataclass(frozen=True)
class Tag:
    """The object that a copy was made of, and the copy as it was then."""

    tag: str
    size: int
    modified: int  # of the copy, in ns

    @property
    def copy(self) -> tuple[int, int]:
        return self.size, self.modified


def tag_file(path: BucketPath) -> Path:
    return root() / ".tags" / path.scheme / path.bucket / f"{path.key}.json"


def read_tag(path: BucketPath) -> Tag | None:
    try:
        return Tag(**json.loads(tag_file(path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_tag(path: BucketPath, tag: Tag) -> None:
    file = tag_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(dataclasses.asdict(tag)))
    partial.replace(file)


def forget(path: BucketPath) -> None:
    tag_file(path).unlink(missing_ok=True)


def state(local: Path) -> tuple[int, int] | None:
    """Size and time of a file; of a database, of the log of its latest changes too."""
    try:
        found = local.stat()
        log = local.with_name(f"{local.name}-wal")
        newest = max(found.st_mtime_ns, log.stat().st_mtime_ns if log.exists() and log.stat().st_size else 0)
    except FileNotFoundError:
        return None
    return found.st_size, newest


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Context that only one process of this host is in."""
    with (cache() / f".lock-{name}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- fetching


def fetch(url: str, ours: bool = False) -> Path:
    """Make the copy of an object or a prefix current, and return its place. Of a step of a run, that is the rest of
    the run: the step itself is read from the bucket.

    ours: the command continues what lies there. Changes that a killed run could not send are then kept, unless the
    object has changed as well; the copy is otherwise moved aside.

    Raises UserError if the bucket cannot be read.
    """
    if step := re.fullmatch(r"(.+)/checkpoints/\d+/*", url):
        fetch(step[1], ours)
        return local_path(url)
    top = BucketPath.parse(url)
    with alone("fetch"):
        found = {top: top.stat()} if top.is_file() else {}
        found |= {path: facts for path, facts in top.objects().items() if not left_out(path, top, STEPS)}
        known = {path for path in copies(top) if read_tag(path)}
        for path in known - found.keys():
            drop(path, ours)
        stale = [(path, facts) for path, facts in found.items() if is_stale(path, facts, ours)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda each: download(*each), stale):
                pass
        if not ours:
            check_hashes(top, {path for path, _ in stale})
    return local_path(url)


def check_hashes(top: BucketPath, new: set[BucketPath]) -> None:
    """Compare what was fetched with the hashes in the manifests beside it.

    Raises UserError for an object that is missing, cut short or changed; it will be fetched again.
    """
    for manifest in [path for path in copies(top) if path.name == LAST[0]]:
        try:
            found = json.loads(local_path(str(manifest)).read_bytes())
            files = {file["name"]: file.get("sha256") for file in found["files"]} | found["other_files"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # of another program, or damaged, which its reader says
        for name, expected in files.items():
            path = manifest.parent / name
            local = local_path(str(path))
            if STEPS.search(name) or (manifest not in new and path not in new):
                continue
            if not local.is_file():
                raise UserError(f"{path} is missing: run the stage that writes {manifest.parent} again")
            with local.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
            if expected and actual != expected:
                forget(path)
                told = f"does not match the hash in {manifest.name}"
                raise UserError(f"{path} {told}: run the stage that writes {manifest.parent} again")


def left_out(path: BucketPath, top: BucketPath, *more: re.Pattern[str]) -> bool:
    """Return True for what no copy is made of; names above `top` were chosen by the user."""
    name = path.key.removeprefix(top.key).lstrip("/")
    return any(pattern.search(name) for pattern in (LEFT_OUT, *more))


def copies(top: BucketPath) -> list[BucketPath]:
    """The objects below a prefix, or at it, that have a local copy or had one."""
    local, tags = local_path(str(top)), tag_file(top).with_suffix("")
    files = [path for path in local.rglob("*") if path.is_file()] if local.is_dir() else [local] * local.is_file()
    keys = {bucket_path(path) for path in files}
    folder = root() / ".tags" / top.scheme / top.bucket
    tagged = [*(tags.rglob("*.json") if tags.is_dir() else ()), *([tag_file(top)] if tag_file(top).is_file() else ())]
    keys |= {BucketPath(top.scheme, top.bucket, str(file.relative_to(folder))[: -len(".json")]) for file in tagged}
    return sorted(path for path in keys if path and not left_out(path, top))


def drop(path: BucketPath, ours: bool) -> None:
    """Remove the copy of an object that is gone; keep what a run of ours has changed since."""
    local, tag = local_path(str(path)), read_tag(path)
    if not ours or (tag and state(local) == tag.copy):
        local.unlink(missing_ok=True)
    forget(path)


def is_stale(path: BucketPath, facts: Facts, ours: bool) -> bool:
    """Return True if an object has to be downloaded. A changed copy that is in the way is moved aside."""
    local, tag = local_path(str(path)), read_tag(path)
    now = state(local)
    if now is None:
        return True
    unchanged, current = tag is not None and now == tag.copy, tag is not None and tag.tag == facts.tag
    if current and (unchanged or ours):
        return False
    if not unchanged and ours:
        aside = local.with_name(f".{local.name}.unsent")
        local.replace(aside)
        line = f"{path} has changed since a run here was killed: taking it; what the run had not sent is in {aside}"
        print(line, file=sys.stderr, flush=True)
    return True


def download(path: BucketPath, facts: Facts) -> None:
    """Fetch an object in pieces, all of one version of it. Raises UserError if it changes meanwhile or is cut short."""
    local = local_path(str(path))
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        partial = local.with_name(f".{local.name}.{os.getpid()}.partial")
        with partial.open("wb") as file, explained(str(path), "fetching it"):
            for start in range(0, facts.st_size, PIECE_BYTES):
                end = min(start + PIECE_BYTES, facts.st_size)
                found = path.store.get(path.key, options={"range": (start, end)})
                if (found.meta["e_tag"] or facts.tag) != facts.tag:
                    raise UserError(f"{path} was replaced while it was fetched: run this again")
                file.write(found.bytes())
        if partial.stat().st_size != facts.st_size:
            raise UserError(f"{path} was cut short ({partial.stat().st_size} of {facts.st_size} bytes): run this again")
        partial.replace(local)
    except OSError as error:
        raise UserError(f"{local} cannot be written ({error.strerror or error}): set ASCLEPIUS_CACHE") from error
    for suffix in ("-wal", "-shm", "-journal"):  # of the database that the copy replaces
        local.with_name(local.name + suffix).unlink(missing_ok=True)
    size, modified = state(local) or (0, 0)
    write_tag(path, Tag(facts.tag, size, modified))


# ---------------------------------------------------------------- sending


def send(url: str, whole: bool = True) -> None:
    """Send the copy of an object or a prefix as far as it has changed, and delete the objects whose copies are gone.

    whole: False for files that need no others beside them, which can be sent while a command runs.

    Raises UserError if the bucket cannot be written.
    """
    top = BucketPath.parse(url)
    with alone("send"):
        changed, gone = [], []
        for path in copies(top):
            now, tag = state(local_path(str(path))), read_tag(path)
            if now is None:
                gone.append(path)
            elif tag is None or now != tag.copy:
                changed.append(path)
        if not whole:
            folders = {path.parent for path in changed if path.name in LAST}
            changed = [path for path in changed if path.parent not in folders]
            gone = []
        last = [path for path in changed if path.name in LAST]
        replaced = [path for path in last if read_tag(path)]
        delete([*replaced, *sorted(gone, key=lambda path: path.name not in LAST)])
        for path in [*replaced, *gone]:
            forget(path)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(upload, [path for path in changed if path.name not in LAST]):
                pass
        for path in last:
            upload(path)


def upload(path: BucketPath) -> None:
    local = local_path(str(path))
    now = state(local)
    if now is None:
        return
    with contextlib.ExitStack() as held:
        source = local
        if local.name.endswith(DATABASE):
            source = Path(held.enter_context(tempfile.TemporaryDirectory())) / local.name
            if not snapshot(local, source):
                return  # in use in a way that allows no reading; at the latest, it is sent at the end
        elif source.stat().st_size > PIECE_BYTES:
            pass  # sent in pieces by the library
        with explained(str(path), "writing it"), source.open("rb") as file:
            tag = path.store.put(path.key, file, chunk_size=PIECE_BYTES)["e_tag"]
    write_tag(path, Tag(str(tag), *now))


def snapshot(database: Path, out: Path) -> bool:
    """Copy a database that may be in use, as it is between two transactions. Returns False if it is locked."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as source,
            contextlib.closing(sqlite3.connect(out)) as target,
        ):
            source.backup(target)
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:  # not one, whatever its name says
        shutil.copyfile(database, out)
    return True


@contextlib.contextmanager
def sending(urls: Iterable[str]) -> Iterator[None]:
    """Context that sends what changes below these addresses, every minute and at its end, also after an error.

    Raises UserError if the last sending fails; the local copies then hold the result, and the next run sends it.
    """
    urls, ended = [*urls], threading.Event()

    def all_urls() -> list[str]:
        return [each for url in urls for each in (url, *siblings(url))]

    def keep_sending() -> None:
        while not ended.wait(SEND_SECONDS):
            for url in all_urls():
                try:
                    send(url, whole=False)
                except (UserError, OSError) as error:
                    print(f"WARNING: {error}. It is sent again in a minute", file=sys.stderr, flush=True)

    thread = threading.Thread(target=keep_sending, daemon=True, name="buckets")
    if urls:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for url in all_urls():
            send(url)


def siblings(url: str) -> list[str]:
    """Addresses of the ledger and the folders of parts that a command writes beside its output."""
    local = local_path(url)
    found = list(local.parent.glob(f"{glob.escape(local.name)}.*")) if local.parent.is_dir() else []
    return [as_url(str(path)) for path in sorted(found) if not LEFT_OUT.search(path.name)]


def fetch_output(url: str) -> Path:
    """Make the copy of an output current, with its ledgers and what all parts share beside it. Returns its place."""
    top = BucketPath.parse(url)
    if not top.key:
        raise UserError(f"{url} is a whole bucket: name a folder in it, such as {top}/NAME")
    for path in top.parent.iterdir():
        if path.name.startswith(f"{top.name}.") and BESIDE.search(path.name):
            fetch(str(path), ours=True)
    return fetch(url, ours=True)
