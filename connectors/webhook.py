"""Sends signed messages to one HTTP endpoint, as specified by Standard Webhooks (standardwebhooks.com, version 1).

Headers: `webhook-id` (the same at every attempt), `webhook-timestamp` (seconds since 1970) and `webhook-signature`.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from http import HTTPStatus

import httpx
from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64


class WebhookError(Exception):
    """An attempt failed. `gone`: the endpoint answered 410 and wants no further messages."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


def key_of(secret: str) -> bytes:
    """Decode a secret such as ``whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw``. Raises ValueError."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"must be base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes, {SECRET_PREFIX} may precede; "
            "make one with: openssl rand -base64 32"
        )
    return key


class WebhookEndpoint:
    """Client of one endpoint. It never retries: the caller decides that."""

    def __init__(self, url: str, *, secret: str, timeout_s: float) -> None:
        self._url = url
        self._signer = Webhook(key_of(secret))
        self._client = httpx.Client(timeout=timeout_s, follow_redirects=False)

    def send(self, message_id: str, body: bytes) -> None:
        """Return when the endpoint has accepted the message (2xx). `body` is JSON in UTF-8.

        Raises:
            WebhookError: in every other case. The text omits the URL, which may contain a token.
        """
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "erratad",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message_id, now, body.decode()),
        }
        try:
            # the response body is not read: an endless one would block the sender
            with self._client.stream("POST", self._url, content=body, headers=headers) as answer:
                status = answer.status_code
        except httpx.HTTPError as exc:
            raise WebhookError(f"no answer ({type(exc).__name__})") from exc
        if not 200 <= status < 300:
            raise WebhookError(f"HTTP {status}", gone=status == HTTPStatus.GONE)

    def close(self) -> None:
        self._client.close()
