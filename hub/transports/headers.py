"""Headers of every answer: what a browser and a cache must not do with it."""

from __future__ import annotations

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",  # requests that CORS allows are not bound by it
    "Referrer-Policy": "no-referrer",
}
"""An answer is data for the page that asked for it."""

PAGE = {
    **SAFE,
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""A page of ours, which has no inline code."""

PRIVATE = {**SAFE, "Cache-Control": "no-store", "Vary": "Authorization, Cookie, Origin"}
"""The answer is one user's."""
