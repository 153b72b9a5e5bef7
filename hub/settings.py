"""Every number and name that can be set, with its reason. Read from `HUB_*` in the environment or from arguments.

Invariant: a `Settings` that exists is usable: what contradicts itself is refused when it is made.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from hub.job.event import LOST, MAX_EVENT_BYTES, TERMINAL

Words = Annotated[frozenset[str], NoDecode]
"""A set of words; in the environment they are separated by commas."""


PUBLIC_FIELDS = frozenset({"status", "project_id", "title", "message", "created_at"})
"""Fields of a job's hash that its owner may see, unless `HUB_PUBLIC_FIELDS` says otherwise."""


class Settings(BaseSettings):
    """The hub's settings. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="HUB_", frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )

    # Redis
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="where jobs live (redis://, rediss://, unix://, redis+sentinel://)",
    )
    key_template: str = Field("job:{id}", description="a job's hash; {id} stands for its id, once")
    terminal_statuses: Words = Field(TERMINAL, description="statuses that end a job; failed always does")
    public_fields: Words = Field(
        PUBLIC_FIELDS,
        description="fields of a job's hash that its owner may see",
    )
    position_check: float = Field(
        25.0, gt=0, description="seconds between looks for events that Pub/Sub never brought"
    )

    # Identity
    jwt_secret: SecretStr | None = Field(None, description="shared secret of HS256 tokens, at least 32 bytes")
    jwt_public_key: str | None = Field(
        None, description="public key of RS256 tokens, PEM text or a file's path"
    )
    jwks_url: str | None = Field(None, description="where the public keys of RS256 tokens are published")
    jwt_issuer: str | None = Field(None, description="the iss a token must have")
    jwt_audience: str | None = Field(None, description="the aud a token must have")
    authorized_parties: Words = Field(frozenset(), description="the azp a token may have")
    session_cookie: str = Field("__session", description="the cookie that holds a browser's token")
    allowed_origins: Words = Field(
        frozenset(), description="web origins that may use the cookie across origins"
    )

    # Viewers
    heartbeat: float = Field(
        15.0, gt=0, description="seconds of silence before a heartbeat; an ALB closes after 60"
    )
    retry: float = Field(3.0, gt=0, description="seconds a browser waits before it reconnects, jittered")
    send_timeout: float = Field(
        10.0, gt=0, description="seconds a viewer may block before it is closed; it can resume"
    )
    linger: float = Field(
        5.0, ge=0, description="seconds a job stays watched after its last viewer; covers a reload"
    )
    max_viewers: int = Field(
        50_000, gt=0, description="viewers per process; new ones are refused, none is evicted"
    )
    max_viewers_per_job: int = Field(
        20_000, gt=0, description="viewers per job; a batch to 20,000 takes 0.2 s"
    )
    max_viewers_per_user: int = Field(1_000, gt=0, description="viewers per user, over all jobs")
    max_viewers_per_user_and_job: int = Field(50, gt=0, description="viewers per user and job")
    max_jobs_per_socket: int = Field(100, gt=0, description="jobs on one dashboard socket")
    stream_age: float = Field(
        3600.0,
        gt=0,
        description="seconds until a stream ends and resumes, 80 to 100 % of it; empties old processes",
    )
    drain: float = Field(20.0, ge=0, description="seconds over which viewers are moved away at shutdown")

    # Memory per watched job
    window_events: int = Field(1000, ge=1, description="events of a watched job kept in memory, and in Redis")
    window_bytes: int = Field(
        1 << 20, gt=0, description="bytes of event bodies of a watched job kept in memory"
    )
    max_event_bytes: int = Field(
        MAX_EVENT_BYTES, gt=0, description="largest event; larger ones become a gap frame"
    )

    # Process
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="how much is logged: debug, info, warning, error"
    )

    @field_validator(
        "terminal_statuses", "public_fields", "authorized_parties", "allowed_origins", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("key_template")
    @classmethod
    def _with_id(cls, value: str) -> str:
        if value.count("{id}") != 1:
            raise ValueError(f"expected one {{id}} in the template, got {value!r}")
        return value

    @field_validator("terminal_statuses")
    @classmethod
    def _with_lost(cls, value: frozenset[str]) -> frozenset[str]:
        return value | {LOST}

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        # RFC 7518 section 3.2: a key of the hash's size or larger must be used with HS256
        if value is not None and (got := len(value.get_secret_value().encode())) < 32:
            raise ValueError(f"expected at least 32 bytes, got {got}")
        return value

    @property
    def authenticates(self) -> bool:
        """Whether there is any way for a viewer to prove who it is."""
        return any((self.jwt_secret, self.jwt_public_key, self.jwks_url))
