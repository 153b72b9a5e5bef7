"""Redis URLs: a single server, or a primary that Sentinels name."""

from __future__ import annotations

import pytest

from hub.broker.address import Address
from hub.errors import InvalidSettings


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://:p@h:1/2", "rediss://h:6380", "unix:///run/redis.sock?db=1"]
)
def test_a_single_server_is_left_to_redis_py(url):
    """Every URL that redis-py reads for a single server is accepted."""
    assert Address.parse(url) == Address()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis+sentinel://h/main", Address("main", (("h", 26379),), {"db": 0})),
        (
            "redis+sentinel://u:p%40@a:1,b,[::1]:3/main/2",
            Address(
                "main",
                (("a", 1), ("b", 26379), ("::1", 3)),
                {"db": 2, "username": "u", "password": "p@"},
            ),
        ),
        (
            "rediss+sentinel://a,b/main?sentinel_password=s",
            Address("main", (("a", 26379), ("b", 26379)), {"db": 0}, True, "s"),
        ),
    ],
)
def test_a_sentinel_url_names_the_service_and_its_sentinels(url, address):
    """redis+sentinel://user:password@host:port,host/service/db"""
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://",
        "redis+sentinel://hidden:hidden@h",
        "redis+sentinel://:hidden@h/",
        "redis+sentinel://h:port/main",
        "redis+sentinel://h/main/zero",
        "redis+sentinel://h/main?nobody=knows",
        "redis+sentinel://a,,b/main",
    ],
)
def test_what_is_wrong_is_said_without_the_password(url):
    """A bad URL is refused before any name is resolved."""
    with pytest.raises(InvalidSettings) as caught:
        Address.parse(url)
    assert "hidden" not in str(caught.value)


def test_a_password_is_not_in_its_repr():
    """The error text has no password, because it is printed in tracebacks."""
    assert "secret" not in repr(Address.parse("redis+sentinel://u:secret@h/main?sentinel_password=secret"))
