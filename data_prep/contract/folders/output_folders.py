"""The place of an output and the work in progress on it.

A command that writes OUT works in `.OUT.asclepius` next to it, which it removes at its end:

    data/notes               the finished folder, replaced by a rename
    data/.notes.asclepius/
      lock.json              the process that writes, see `folder_lock.py`
      new/                   the folder that is being written
      old/                   the folder that is being replaced, for the moment between two renames

A killed run leaves the hidden folder behind, and the next run of the same command removes it.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.contract.errors import UserError
from data_prep.contract.folders.folder_lock import LOCK, is_held, locked

NEW, OLD = "new", "old"
RECORD = "written_files.json"  # of a folder that several commands write into
DROPPINGS = (".DS_Store", "Thumbs.db", "desktop.ini")  # written by file managers that only show a folder


def place_of(out: Path, inputs: Iterable[str] = ()) -> Path:
    """The absolute place of an output folder, behind any symbolic links.

    Raises UserError for a folder that cannot be replaced by a rename, or that contains one of the inputs.
    """
    place = Path(os.path.realpath(out))
    here = Path(os.path.realpath("."))
    if place == here or place in here.parents:
        raise UserError(f"--out {out} is the current folder or contains it: name a folder to create, such as ./NAME")
    if os.path.ismount(place):
        raise UserError(f"--out {out} is a mounted disk: name a folder to create on it, such as {out}/NAME")
    for name in inputs:
        source = Path(os.path.realpath(name))
        if os.path.lexists(name) and (source == place or place in source.parents):
            raise UserError(f"--out {out} contains the input {name}, which it would replace: choose another --out")
    return place


@contextlib.contextmanager
def working_folder(out: Path, parts: Iterable[str] = (), purpose: str = "") -> Iterator[Path]:
    """Context with a hidden folder next to `out` for work in progress, whose lock keeps other runs from `out`.

    What a killed run left in it is removed at the start, and everything at the end, unless another run has taken it
    over. If a killed run had moved the old result aside, it is put back first.

    Args:
        parts: names of what is replaced in `out`, if not all of it is.
        purpose: a suffix of the hidden folder's name, for a second one of the same output.

    Raises:
        UserError: another run holds the lock, or the folder cannot be written.
    """
    work = out.parent / f".{out.name}.asclepius{purpose}"
    foreign = {path.name for path in work.iterdir()} - {LOCK, NEW, OLD} if work.is_dir() else set()
    # A lock may be there under another name for the moment of its removal.
    if names := sorted(name for name in foreign if not name.startswith(f"{LOCK}.")):
        raise UserError(f"{work} contains {names[0]}, which asclepius did not write: move it away")
    try:
        with locked(work):
            if finish_replacing(work, out, parts):
                print(f"{out}: put back, a killed run had moved it aside", file=sys.stderr, flush=True)
            empty(work)
            try:
                yield work
            finally:
                if is_held(work):
                    empty(work)
    finally:
        with contextlib.suppress(OSError):  # left by a killed run, or still in use by another
            work.rmdir()


def finish_replacing(work: Path, out: Path, parts: Iterable[str]) -> bool:
    """Undo or complete the renames between which a run was killed; return False if there were none."""
    if not (work / OLD).exists():
        return False
    if not parts:
        if out.exists():
            return False
        (work / OLD).rename(out)
        return True
    # The old parts leave before the first new one arrives.
    complete = any((out / name).exists() and not (work / NEW / name).exists() for name in parts)
    for name in parts:
        part = work / (NEW if complete else OLD) / name
        if part.exists():
            part.rename(out / name)
    return True


def replace_parts(work: Path, out: Path) -> None:
    """Move everything in `work / NEW` to `out`, in the place of what has the same name there."""
    refuse_after_takeover(work, out)
    parts = sorted(part.name for part in (work / NEW).iterdir())
    out.mkdir(exist_ok=True)
    (work / OLD).mkdir()
    try:
        for name in parts:
            if (out / name).exists():
                (out / name).rename(work / OLD / name)
        for name in parts:
            (work / NEW / name).rename(out / name)
    except BaseException:
        finish_replacing(work, out, parts)
        raise
    sync(out)


def refuse_after_takeover(work: Path, out: Path) -> None:
    """Raise UserError if another run has taken over the hidden folder `work`, with what is in it."""
    if not is_held(work):
        raise UserError(f"another run has taken over {out}, because this one seemed dead: it ends")


def empty(work: Path) -> None:
    for name in (NEW, OLD):
        shutil.rmtree(work / name, ignore_errors=True)


@contextlib.contextmanager
def recording_files(folder: Path) -> Iterator[None]:
    """Context that adds the files written in it to the list in `folder / RECORD`, for `foreign_files`."""
    before = names_in(folder)
    try:
        yield
    finally:
        if folder.is_dir():
            made = recorded(folder / RECORD) | (names_in(folder) - before)
            write_durably(folder / RECORD, json.dumps({"files": sorted(made)}, indent=1) + "\n")


def recorded(path: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads(path.read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def foreign_files(folder: Path) -> list[str]:
    """The files in a folder that are not in the list of `recording_files`, and empty folders."""
    return sorted(names_in(folder) - recorded(folder / RECORD) - {RECORD})


def refuse_to_replace(folder: Path, foreign: list[str]) -> None:
    """Raise UserError if a folder that would be replaced contains files of the user's."""
    if foreign:
        more = f" and {len(foreign) - 3} more" if foreign[3:] else ""
        raise UserError(
            f"{folder} contains files that asclepius did not write ({', '.join(foreign[:3])}{more}): "
            "move them away, or choose another --out"
        )


def names_in(folder: Path) -> set[str]:
    """Relative paths of all files, links and empty folders in a folder, without the leavings of file managers."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.name not in DROPPINGS and (path.is_symlink() or not path.is_dir() or not any(path.iterdir()))
    }


def free_name(path: Path) -> Path:
    """The path, or the path with the first free number appended."""
    free, number = path, 2
    while os.path.lexists(free):
        free = path.with_name(f"{path.name}-{number}")
        number += 1
    return free


def sync(path: Path) -> None:
    """Flush a file written by another library, or a folder's entries, to disk, before a manifest refers to it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Write a text file, or leave what was there before: a full disk or a kill never leaves half of it."""
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():  # /dev/stdout, which a rename would replace
        place.write_text(text, encoding="utf-8")
        return
    partial = place.with_name(f".{place.name}.asclepius-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, partial)
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)
