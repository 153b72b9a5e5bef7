"""Settings from the environment."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hub.broker.connect import for_publishing, for_publishing_sync, for_requests
from hub.errors import InvalidSettings
from hub.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own."""
    import os

    for name in [name for name in os.environ if name.startswith("HUB_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("HUB_REDIS_URL", "redis://r:1/2", "redis_url", "redis://r:1/2"),
        ("HUB_HEARTBEAT", "2.5", "heartbeat", 2.5),
        ("HUB_LINGER", "0", "linger", 0.0),
        ("HUB_MAX_VIEWERS", "7", "max_viewers", 7),
        ("HUB_TERMINAL_STATUSES", "done, failed ,,", "terminal_statuses", frozenset({"done", "failed"})),
        (
            "HUB_ALLOWED_ORIGINS",
            "https://a,https://b",
            "allowed_origins",
            frozenset({"https://a", "https://b"}),
        ),
        ("HUB_PUBLIC_FIELDS", ",", "public_fields", frozenset()),
        ("HUB_AUTHORIZED_PARTIES", "x", "authorized_parties", frozenset({"x"})),
        ("HUB_LOG_LEVEL", "debug", "log_level", "debug"),
        ("hub_heartbeat", "3", "heartbeat", 3.0),
    ],
)
def test_the_environment_sets(monkeypatch, name, text, field, value):
    """`HUB_` and the field's name; sets are words with commas between."""
    monkeypatch.setenv(name, text)
    assert getattr(Settings(), field) == value


def test_arguments_win_over_the_environment(monkeypatch):
    """A test, or an embedding application, says what it wants."""
    monkeypatch.setenv("HUB_HEARTBEAT", "3")
    assert Settings(heartbeat=1).heartbeat == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HUB_HEARTBEAT", "soon"),
        ("HUB_HEARTBEAT", "0"),
        ("HUB_HEARTBEAT", "-1"),
        ("HUB_HEARTBEAT", "nan"),
        ("HUB_HEARTBEAT", "inf"),
        ("HUB_SEND_TIMEOUT", "0"),
        ("HUB_RETRY", "0"),
        ("HUB_RETRY", "inf"),
        ("HUB_DRAIN", "-1"),
        ("HUB_DRAIN", "inf"),
        ("HUB_LINGER", "-0.1"),
        ("HUB_POSITION_CHECK", "0"),
        ("HUB_MAX_VIEWERS", "0"),
        ("HUB_MAX_VIEWERS", "1.5"),
        ("HUB_WINDOW_EVENTS", "0"),
        ("HUB_WINDOW_BYTES", "-5"),
        ("HUB_MAX_EVENT_BYTES", "0"),
        ("HUB_LOG_LEVEL", "loud"),
        ("HUB_JWT_SECRET", "short"),
    ],
)
def test_a_bad_value_names_its_setting(monkeypatch, name, text):
    """What is wrong and where, before the process starts."""
    monkeypatch.setenv(name, text)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert name.removeprefix("HUB_").lower() in str(caught.value)


def test_a_secret_stays_out_of_messages(monkeypatch):
    """Neither repr nor an error about it shows it."""
    secret = "0123456789 this must not be printed"
    assert secret not in repr(Settings(jwt_secret=secret))
    monkeypatch.setenv("HUB_JWT_SECRET", "tooshort-secret")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert "tooshort-secret" not in str(caught.value)


def test_an_unknown_setting_is_refused():
    """A typing mistake does nothing silently."""
    with pytest.raises(ValidationError, match="hartbeat"):
        Settings(hartbeat=3)


def test_settings_do_not_change():
    """What was checked stays so."""
    with pytest.raises(ValidationError):
        Settings().heartbeat = 1


def test_the_defaults_are_the_designs():
    """The numbers of docs/operations.md."""
    default = Settings()
    assert (default.heartbeat, default.retry, default.send_timeout, default.linger) == (15, 3, 10, 5)
    assert (default.window_events, default.window_bytes, default.max_event_bytes) == (1000, 1 << 20, 1 << 20)
    assert (default.max_viewers, default.max_viewers_per_user_and_job, default.drain) == (50_000, 50, 20)
    assert default.stream_age == 3600
    assert default.terminal_statuses == {"ready", "failed"}
    assert default.session_cookie == "__session"


@pytest.mark.parametrize("url", ["", "http://x", "localhost", "redis:/x", "amqp://u:hidden@h"])
@pytest.mark.parametrize("make", [for_requests, for_publishing, for_publishing_sync])
def test_a_url_that_is_not_redis_is_refused_without_its_password(make, url):
    """Said at the start, and credentials stay out of it."""
    with pytest.raises(InvalidSettings) as caught:
        make(url)
    assert "hidden" not in str(caught.value)


def test_failed_always_ends_a_job():
    """A worker that is lost ends its job with it."""
    assert Settings(terminal_statuses="done").terminal_statuses == {"done", "failed"}


@pytest.mark.parametrize("template", ["job", "job:{id}:{id}", ""])
def test_a_template_must_have_the_id_once(template):
    """The process does not start with one that has not."""
    with pytest.raises(ValidationError, match="template"):
        Settings(key_template=template)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch):
    """Compose writes `HUB_JWT_ISSUER=` for `${ISSUER:-}`; an issuer "" would refuse every token."""
    for name in ("JWT_ISSUER", "JWKS_URL", "JWT_SECRET", "HEARTBEAT", "PUBLIC_FIELDS"):
        monkeypatch.setenv(f"HUB_{name}", "")
    assert Settings() == Settings.model_construct()


def test_what_editors_and_people_write_is_understood(monkeypatch):
    """A newline after a secret, a slash after an origin, a level in capitals."""
    monkeypatch.setenv("HUB_JWT_SECRET", "a secret that is long enough for HS256\n")
    monkeypatch.setenv("HUB_ALLOWED_ORIGINS", "https://App.example/, http://localhost:3000")
    monkeypatch.setenv("HUB_LOG_LEVEL", "INFO")
    settings = Settings()
    assert settings.jwt_secret.get_secret_value() == "a secret that is long enough for HS256"
    assert settings.allowed_origins == {"https://app.example", "http://localhost:3000"}
    assert settings.log_level == "info"


def test_a_setting_may_stand_in_a_file(monkeypatch, tmp_path):
    """As secrets of Docker and Kubernetes do; the words say which variable is wrong."""
    path = tmp_path / "secret"
    path.write_text("a secret that is long enough for HS256\n")
    monkeypatch.setenv("HUB_JWT_SECRET_FILE", str(path))
    assert Settings().jwt_secret.get_secret_value() == "a secret that is long enough for HS256"
    monkeypatch.setenv("HUB_JWT_SECRET", "another secret that is long enough too")
    with pytest.raises(InvalidSettings, match="HUB_JWT_SECRET or HUB_JWT_SECRET_FILE"):
        Settings()
    monkeypatch.delenv("HUB_JWT_SECRET")
    monkeypatch.setenv("HUB_JWT_SECRET_FILE", str(tmp_path / "nothing"))
    with pytest.raises(InvalidSettings, match="HUB_JWT_SECRET_FILE"):
        Settings()


@pytest.mark.parametrize("make", [for_requests, for_publishing, for_publishing_sync])
def test_an_option_that_no_connection_has_is_refused_in_one_line(make):
    """redis-py would say so at the first command, in the subscriber's task and in each request."""
    with pytest.raises(InvalidSettings, match="unknown_option"):
        make("redis://h/0?unknown_option=1")
    with pytest.raises(InvalidSettings):
        make("redis://h/0?socket_timeout=soon")


@pytest.mark.parametrize("make", [for_requests, for_publishing, for_publishing_sync])
@pytest.mark.parametrize(
    ("url", "required"),
    [
        ("rediss://h/0?ssl_cert_reqs=CERT_NONE", "none"),
        ("rediss://h/0?ssl_cert_reqs=optional", "optional"),
        ("redis://h/0?ssl_cert_reqs=none", None),
    ],
)
def test_celerys_spelling_is_understood(make, url, required):
    """Also where there is no TLS to set up."""
    options = make(url).connection_pool.connection_kwargs
    assert options.get("ssl_cert_reqs") == required
