"""Errors in the form of OpenAI's API.

{"error": {"message": "...", "type": "invalid_request_error", "param": "temperature", "code": "invalid_value"}}
"""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

OURS = "The server had an error while processing the request."


class ApiError(Exception):
    """A refusal or a failure of one request, for its client."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400,
        headers: Mapping[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(message)
        self.message, self.param, self.code, self.status, self.headers = message, param, code, status, headers

    @property
    def kind(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def shortened(value: object) -> str:
    """A value of a request for a message, which stays short and one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
