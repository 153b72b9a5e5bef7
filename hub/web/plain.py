"""What a token must be before anything of it is parsed.

PyJWT's parser stops at the interpreter's limit of nesting, which differs between versions. The parser also
reads UTF-16 and UTF-32, where a count of brackets would miss some. JSON in either has a NUL among its first
four bytes, or a mark that is no UTF-8; RFC 7519 demands UTF-8.
"""

from __future__ import annotations

import jwt
from jwt.utils import base64url_decode

from hub.job.nesting import TOO_DEEP, is_too_deep


def require_plain_json(token: str) -> None:
    """Raises DecodeError unless header and claims are UTF-8 without NUL,
    and nested as deep as an event may be."""
    signed, _, _ = token.rpartition(".")
    for part in signed.split(".", 1):
        try:
            plain(base64url_decode(part))
        except ValueError as error:
            raise jwt.DecodeError(str(error)) from error


def plain(data: bytes) -> str:
    """Returns `data` as text. Raises ValueError as above."""
    text = data.decode()
    if "\0" in text or is_too_deep(text):
        raise ValueError(TOO_DEEP)
    return text
