"""The files and batches at an endpoint with OpenAI's Batch API.

A batch names its batch in our ledger and the ledger itself in its metadata, so that it is found again.
"""

import asyncio
import functools
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import UserError
from data_prep.execution.progress import say
from data_prep.teachers.base import TeacherConfig, api_key
from data_prep.teachers.endpoint.allowed_hosts import is_own_host
from data_prep.teachers.endpoint.rate_limit import back_off
from data_prep.teachers.endpoint.replies import one_line
from data_prep.teachers.endpoint.transport import PASSING

# Keys of a batch's metadata: its name in the ledger, and `Ledger.identity`.
NAME, LEDGER = "asclepius_batch", "asclepius_ledger"
# Statuses of an endpoint that does not know a part of the API.
UNKNOWN_CALL = (404, 405, 501)
# Deleting files is a courtesy, which must not hold up a run.
DELETE_SECONDS = 30.0


class ApiError(Exception):
    """A call of the API that brought no result. `status` is None if no response arrived, or none of the API."""

    def __init__(self, reason: str, status: int | None = None):
        super().__init__(reason)
        self.reason, self.status = reason, status

    @property
    def passes(self) -> bool:
        return self.status is None or self.status >= 500 or self.status in (*PASSING, 429)


@dataclass(frozen=True)
class Download:
    """A file that was downloaded. `framed`: the response stated its length, which the client has compared."""

    file_id: str
    size: int
    framed: bool


class BatchEndpoint:
    """The calls of the Batch API that `Batches` needs. The client repeats what may pass; then they raise `ApiError`."""

    def __init__(self, config: TeacherConfig):
        import openai

        self.config = config
        self.client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=api_key(config),
            timeout=config.timeout_seconds,
            max_retries=config.max_retries,
            # As in http.py: no redirects, and no proxy of the environment for a host of the institution.
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,
                proxy=config.proxy or None,
                trust_env=not config.proxy and not is_own_host(config.host),
            ),
        )

    async def create(self, name: str, ledger: str, lines: Sequence[bytes]) -> str:
        """Upload a file and create a batch of it; the batch's id. Raises UserError."""
        # The client must not retry by itself: a request that timed out may have created the batch.
        batches = self.client.with_options(max_retries=0).batches
        try:
            file_id = await self._upload(f"{name}.jsonl", lines)
            for attempt in itertools.count(1):
                try:
                    created = await self._ask(
                        lambda: batches.create(
                            input_file_id=file_id,
                            endpoint="/v1/chat/completions",
                            completion_window="24h",
                            metadata={NAME: name, LEDGER: ledger},
                        ),
                        "id",
                    )
                    return str(created.id)
                except ApiError as error:
                    if not error.passes:
                        await self.delete([file_id])
                    if not error.passes or attempt > self.config.max_retries:
                        raise
                await asyncio.sleep(back_off(attempt))
                if found := [batch for batch in await self.created() if batch.metadata[NAME] == name]:
                    return str(found[0].id)
        except ApiError as error:
            raise self.refused(error) from error
        raise AssertionError("unreachable")

    async def _upload(self, file_name: str, lines: Sequence[bytes]) -> str:
        with tempfile.TemporaryFile() as file:
            file.writelines(lines)
            file.seek(0)
            uploaded = await self._ask(lambda: self.client.files.create(file=(file_name, file), purpose="batch"), "id")
            return str(uploaded.id)

    async def created(self) -> list[Any]:
        """The endpoint's batches that a run of this program created."""
        everything = await self._listed(lambda after: self.client.batches.list(limit=100, after=after))
        return [batch for batch in everything if NAME in (batch.metadata or {})]

    async def uploaded(self, file_name: str) -> list[str]:
        """The ids of the uploaded files of this name."""
        everything = await self._listed(lambda after: self.client.files.list(limit=1000, after=after, purpose="batch"))
        return [file.id for file in everything if file.filename == file_name]

    async def _listed(self, list_after: Callable[[Any], Awaitable[Any]]) -> list[Any]:
        """The entries of all pages of a listing."""
        import openai

        entries: list[Any] = []
        after: Any = openai.NOT_GIVEN
        while True:
            page = await self._ask(functools.partial(list_after, after), "data")
            entries += page.data
            if not page.data or page.has_more is False or page.data[-1].id == after:
                return entries
            after = page.data[-1].id

    async def retrieve(self, batch_id: str) -> Any:
        return await self._ask(lambda: self.client.batches.retrieve(batch_id), "status")

    async def download(self, file_id: str, path: Path) -> Download | None:
        """Write a file of the endpoint to `path`; None if it is not there any more. Raises UserError."""

        async def stream() -> Download:
            # To disk, and later split as bytes: a reply may contain separators that text readers take for line ends.
            async with self.client.files.with_streaming_response.content(file_id) as response:
                try:
                    await response.stream_to_file(path)
                except OSError:  # of the disk
                    raise
                except Exception as error:  # a body that breaks off: an error of the HTTP library, not of openai
                    raise ApiError(self._hidden(one_line(error))) from error
                return Download(file_id, path.stat().st_size, "content-length" in response.headers)

        for attempt in itertools.count(1):
            try:
                return await self._ask(stream)
            except ApiError as error:
                if error.status == 404:
                    return None
                # The client does not repeat a download that breaks off.
                if not error.passes or attempt > self.config.max_retries:
                    raise self.refused(error) from error
            await asyncio.sleep(back_off(attempt))
        raise AssertionError("unreachable")

    async def is_whole(self, download: Download) -> bool | None:
        """Return True if a download has the size that the endpoint states; None if it states none."""
        try:
            file = await self._ask(lambda: self.client.files.retrieve(download.file_id), "bytes")
            return int(file.bytes) == download.size
        except (ApiError, ValueError, TypeError):
            return None

    async def delete(self, file_ids: Iterable[str]) -> bool:
        """Delete files; False if that should be tried again later."""
        files = self.client.with_options(max_retries=1, timeout=min(DELETE_SECONDS, self.config.timeout_seconds)).files
        for file_id in file_ids:
            try:
                await self._ask(functools.partial(files.delete, file_id))
            except ApiError as error:
                if error.status == 404:
                    continue
                later = "; a later run with this ledger tries again" if error.passes else ""
                say(f"{self.config.where}: file {file_id} was not deleted at the endpoint ({error.reason}){later}")
                if error.passes:
                    return False
        return True

    async def _ask(self, ask: Callable[[], Awaitable[Any]], needed: str = "") -> Any:
        """The result of a call, which has the field `needed`; an `ApiError` otherwise."""
        import openai

        try:
            result = await ask()
        except openai.APIStatusError as error:
            raise ApiError(self._hidden(one_line(error)), error.status_code) from error
        # Of a gateway's page, the client raises an error of its parser or of its classes.
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise ApiError(self._hidden(one_line(error))) from error
        if needed and getattr(result, needed, None) is None:
            raise ApiError(f"a response without {needed}, perhaps of a gateway")
        return result

    def _hidden(self, text: str) -> str:
        # Some endpoints repeat a rejected key in their error message.
        return text.replace(self.client.api_key, "***")

    def refused(self, error: ApiError) -> UserError:
        remedy = (
            f"check the key in {self.config.flags.key}"
            if error.status in (401, 403)
            else "replies so far are saved, run this again"
        )
        problem = f"answered {error.status}" if error.status else "cannot be reached"
        return UserError(f"{self.config.where}, Batch API: {problem} ({error.reason}): {remedy}")

    async def close(self) -> None:
        await self.client.close()
