"""The files of a source: which ones they are, and their content as text or bytes that is what was hashed.

A text file may be compressed (.gz, .bz2, .xz, .zst). Its encoding is found as follows:

1. A byte order mark decides: UTF-8, UTF-16 or UTF-32. UTF-16 without one shows in its zero bytes.
2. Bytes that are all UTF-8 are UTF-8.
3. If several bytes are not UTF-8 and hardly any beyond ASCII are, as in a file that Windows-1252 wrote, the file is
   read as Windows-1252, and a line says so. A single such byte is no evidence.
4. Otherwise it is a damaged UTF-8 file: the bytes that are wrong become lone surrogates, and spoil only their own rows.
   A file of which more than 1 % are such bytes is refused.
"""

import codecs
import functools
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_prep.contract.errors import UserError, first_line
from data_prep.contract.records import text_hash

CHUNK = 1 << 20
TEXT_FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt")
FORMATS = (*TEXT_FORMATS, ".parquet")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
KNOWN = f"{', '.join(FORMATS)}; text also with {', '.join(COMPRESSIONS)}"
# First bytes of files that are often given another suffix.
SIGNATURES = {
    b"%PDF": "a PDF file",
    b"PK\x03\x04": "a zip file, such as .docx or .xlsx",
    b"\xd0\xcf\x11\xe0": "a file of Microsoft Office",
    b"\x1f\x8b": "a gzip file (.gz)",
    b"BZh": "a bzip2 file (.bz2)",
    b"\xfd7zXZ": "an xz file (.xz)",
    b"\x28\xb5\x2f\xfd": "a Zstandard file (.zst)",
    b"PAR1": "a Parquet file (.parquet)",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
}
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WRONG_BYTE = re.compile("[\udc80-\udcff]")
BEYOND_ASCII = re.compile("[^\x00-\x7f\udc80-\udcff]")
# Bytes that Windows-1252 leaves undefined, and runs that its languages do not have.
NOT_CP1252 = re.compile("[\udc81\udc8d\udc8f\udc90\udc9d]|[\udc80-\udcff]{4}")
FEWEST_OF_CP1252 = 2
CONTROLS = bytes([*range(9), *range(14, 27), *range(28, 32), 127])


@functools.cache
def say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- which files


def suffixes_of(name: str) -> tuple[str, str]:
    """(format, compression) of a file's name, each "" if unknown: "A.CSV.gz" gives (".csv", ".gz")."""
    path = Path(name.lower())
    if path.suffix in FORMATS:
        return path.suffix, ""
    inner = Path(path.stem).suffix
    return (inner, path.suffix) if path.suffix in COMPRESSIONS and inner in TEXT_FORMATS else ("", "")


@dataclass(frozen=True)
class Survey:
    """A file as it was when it was looked through, before its rows were read."""

    sha256: str
    state: tuple[int, ...]
    encoding: str = ""


@dataclass(frozen=True)
class SourceFile:
    path: Path
    name: str  # path within the source, with "/", which tells files of one name in two folders apart

    @property
    def format(self) -> str:
        return suffixes_of(self.name)[0]

    @property
    def compression(self) -> str:
        return suffixes_of(self.name)[1]

    @property
    def stem(self) -> str:
        return self.name[: len(self.name) - len(self.format) - len(self.compression)]

    @functools.cached_property
    def survey(self) -> Survey:
        return look_through(self)


def stem_of(path: Path) -> str:
    """The name of a source: of a file without its suffixes, of a folder its whole name."""
    return path.name if path.is_dir() else SourceFile(path, path.name).stem


def files_of(source: Path) -> list[SourceFile]:
    """The source file, or the files of a folder and its subfolders, sorted by path.

    Raises UserError if a file is of no known kind, cannot be reached, or if a folder contains several kinds.
    """
    if source.is_file():
        if not suffixes_of(source.name)[0]:
            raise UserError(f"{source}: unknown file suffix {source.suffix!r}; known: {KNOWN}")
        if not source.stat().st_size:
            raise UserError(f"{source} is empty: fetch it again")
        return [SourceFile(source, source.name)]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    return in_order(source, list(below(source)))


def in_order(source: Path, files: list[SourceFile]) -> list[SourceFile]:
    """The files of a folder sorted by path. Raises UserError if there are none, or if they are of several kinds."""
    files = sorted(files, key=lambda file: file.path)
    # A kind has one reader: .tsv is read as .csv is.
    kinds = {{".tsv": ".csv", ".ndjson": ".jsonl"}.get(file.format, file.format): file.format for file in files}
    if not files:
        raise UserError(f"{source} contains no files of a known kind ({KNOWN})")
    if len(kinds) > 1:
        raise UserError(
            f"{source} contains files of several kinds ({', '.join(sorted(kinds.values()))}): pass one file, or "
            "separate them"
        )
    by_stem: dict[str, SourceFile] = {}
    for file in files:
        if other := by_stem.get(file.stem + file.format):
            raise UserError(f"{source} contains both {other.name} and {file.name}: keep one of them")
        by_stem[file.stem + file.format] = file
    return files


def below(source: Path) -> Iterator[SourceFile]:
    """The files of known kinds below a folder, without hidden ones. Linked folders are followed, each once."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: {error.strerror}; change its permissions or leave it out") from error

    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or not suffixes_of(name)[0]:
                continue
            if not path.exists():
                raise UserError(f"{path} is a link to {path.readlink()}, which does not exist; remove or mend it")
            if path.is_file():
                yield SourceFile(path, path.relative_to(source).as_posix())


def content_of(source: Path, files: Sequence[SourceFile]) -> str:
    """The SHA-256 of a file, or one hash for all files of a folder, because a corpus may have one file per report."""
    if source.is_file():
        return files[0].survey.sha256
    return text_hash(*(f"{file.name} {file.survey.sha256}" for file in files))


# ---------------------------------------------------------------- bytes


def state_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def changed(file: SourceFile) -> UserError:
    return UserError(f"{file.path} changed while it was read: run again when nothing writes to it")


class Watched(io.RawIOBase):
    """The raw bytes of a file, hashed as they are read. Raises UserError if they are not those of the survey."""

    def __init__(self, raw: Any, file: SourceFile, survey: Survey | None):
        self.raw, self.file, self.surveyed = raw, file, survey
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.raw.readinto(buffer)
        self.hash.update(memoryview(buffer)[:count])
        if self.surveyed and self.surveyed.state != state_of(os.fstat(self.raw.fileno())):
            raise changed(self.file)
        return count

    def finish(self) -> None:
        """Read what the decompressor left, and compare the hash of everything with the survey."""
        while self.read(CHUNK):
            pass
        if self.surveyed and self.surveyed.sha256 != self.hash.hexdigest():
            raise changed(self.file)


@contextmanager
def readable(file: SourceFile) -> Iterator[None]:
    """Turn what can go wrong while a file is read into a UserError of one line."""
    import lzma
    import zlib

    try:
        yield
    except OSError as error:
        # The errors of a decompressor and of Arrow have no number.
        why = error.strerror if error.errno else f"it is damaged ({first_line(error)})"
        raise UserError(f"{file.path} cannot be read: {why}") from error
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{file.path} is cut off or damaged ({first_line(error)}): fetch it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file.path} is damaged: byte {error.start} of a block is not {error.encoding}") from error


def decompressed(watched: Watched, compression: str) -> IO[bytes]:
    import bz2
    import gzip
    import lzma

    buffered: Any = io.BufferedReader(watched, CHUNK)
    if compression == ".gz":
        return gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]
    if compression == ".bz2":
        return bz2.BZ2File(buffered)
    if compression == ".xz":
        return lzma.LZMAFile(buffered)
    if compression == ".zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(buffered, mode="r"), "zstd")
    return buffered


@contextmanager
def opened_bytes(file: SourceFile, survey: Survey | None) -> Iterator[tuple[Watched, IO[bytes]]]:
    """The raw and the decompressed bytes of a file. At the end, what was read must be what was surveyed."""
    with file.path.open("rb", buffering=0) as raw:
        watched = Watched(raw, file, survey)
        yield watched, decompressed(watched, file.compression)
        watched.finish()


@contextmanager
def opened_text(file: SourceFile) -> Iterator[IO[str]]:
    """The text of a file, whose line breaks are as they are. Bytes that are not UTF-8 become lone surrogates."""
    survey = file.survey
    with opened_bytes(file, survey) as (_, content):
        errors = "surrogateescape" if survey.encoding == "utf-8-sig" else "strict"
        yield io.TextIOWrapper(content, survey.encoding, errors, newline="")


# ---------------------------------------------------------------- the survey


def look_through(file: SourceFile) -> Survey:
    """Read a file once for its hash and, if it contains text, for its encoding. Raises UserError if it is no text."""
    guess = Encoding(file)
    with readable(file):
        state = state_of(file.path.stat())
        with opened_bytes(file, None) as (watched, content):
            while file.format in TEXT_FORMATS and (chunk := content.read(CHUNK)):
                guess.add(bytes(chunk))
        if state != state_of(file.path.stat()):
            raise changed(file)
    return Survey(watched.hash.hexdigest(), state, guess.found() if file.format in TEXT_FORMATS else "")


class Encoding:
    """The encoding of a file of text, from its bytes."""

    def __init__(self, file: SourceFile):
        self.file = file
        self.fixed = ""  # set by a byte order mark
        self.size = self.wrong = self.right = 0  # bytes, bytes that are not UTF-8, UTF-8 characters beyond ASCII
        self.is_cp1252 = True
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def add(self, chunk: bytes) -> None:
        if not self.size:
            self.fixed = self.from_start(chunk)
        self.size += len(chunk)
        if not self.fixed:
            self.count(self.decoder.decode(chunk))

    def count(self, text: str) -> None:
        if not text.isascii():
            self.right += len(BEYOND_ASCII.findall(text))
            self.wrong += len(WRONG_BYTE.findall(text))
            self.is_cp1252 = self.is_cp1252 and not NOT_CP1252.search(text)

    def from_start(self, chunk: bytes) -> str:
        """The encoding that the first bytes fix, or "". Raises UserError if they are not those of a text."""
        for mark, name in BYTE_ORDER_MARKS:
            if chunk.startswith(mark):
                return "" if name == "utf-8" else name
        for signature, kind in SIGNATURES.items():
            if chunk.startswith(signature):
                raise UserError(
                    f"{self.file.path} is {kind}, not text: give it the suffix of its format, or convert it"
                )
        zeros = [chunk[side::2].count(0) for side in (0, 1)]
        if max(zeros) > 0.7 * (len(chunk) // 2) and min(zeros) < 0.05 * (len(chunk) // 2):
            return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
        controls = len(chunk) - len(chunk.translate(None, CONTROLS))
        if (controls > 0.05 * len(chunk) and not chunk.isascii()) or chunk.count(0) > 0.3 * len(chunk):
            raise UserError(
                f"{self.file.path} is not a text file: {controls} of its first {len(chunk)} bytes are controls"
            )
        return ""

    def found(self) -> str:
        if not self.size and self.file.format != ".txt":
            raise UserError(f"{self.file.path} is empty: fetch it again, or leave it out")
        if self.fixed:
            return self.fixed
        self.count(self.decoder.decode(b"", final=True))
        if self.wrong >= FEWEST_OF_CP1252 and self.wrong > 10 * self.right and self.is_cp1252:
            return "cp1252"
        if self.wrong > max(4, 0.01 * self.size):
            raise UserError(f"{self.file.path} is neither UTF-8 nor Windows-1252: save it as UTF-8")
        return "utf-8-sig"


def say_encodings(files: Sequence[SourceFile]) -> None:
    """One line for all files that are not UTF-8."""
    for encoding in ("utf-16", "utf-32", "cp1252"):
        found = [file for file in files if file.survey.encoding.startswith(encoding)]
        if found:
            name = {"cp1252": "Windows-1252, because it is not UTF-8"}.get(encoding, encoding.upper())
            others = f" and {len(found) - 1} more files" if len(found) > 1 else ""
            say_once(f"{found[0].path}{others}: read as {name}")
