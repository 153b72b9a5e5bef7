"""Every number and name that an operator can set. Values come from `HUB_*` in the environment, or from
arguments.

Invariant: a `Settings` that exists is valid. A bad or unknown value raises a ValidationError when it is made.
A description is shown by `push-hub settings` and repeated in docs/operations.md (a test compares the two).
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from hub.job.event import LOST, MAX_EVENT_BYTES, TERMINAL
from hub.job.record import PUBLIC_FIELDS
from hub.setting_files import Files

Words = Annotated[frozenset[str], NoDecode]
"""A set of words, separated by commas in the environment."""


class Settings(BaseSettings):
    """The hub's settings. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix="HUB_",
        env_ignore_empty=True,  # compose writes an empty variable for one that is not set
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    # Redis
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="URL of the Redis that holds the jobs: redis://, rediss://, unix://, redis+sentinel://, redis+cluster://",
    )
    bare: bool = Field(True, description="on a cluster: hear events that are published without the script")
    presence: bool = Field(
        True, description="tell the other hubs, and workers, how many viewers a job has here"
    )
    key_template: str = Field(
        "job:{id}", description="key of a job's hash; contains {id} once, which stands for the job's id"
    )
    terminal_statuses: Words = Field(
        TERMINAL, description="statuses that end a job; failed is always one of them"
    )
    public_fields: Words = Field(
        PUBLIC_FIELDS,
        description="fields of a job's hash that are shown to the job's owner",
    )
    catalogue: Words = Field(
        frozenset(),
        description="modules that register event types of your own, for the contract: my_app.events",
    )
    position_check: float = Field(
        25.0, gt=0, description="seconds between checks of Redis for events that Pub/Sub did not deliver"
    )

    # Identity
    jwt_secret: SecretStr | None = Field(
        None,
        description="secret that verifies HS256 tokens, at least 32 bytes (HS384: 48 bytes, HS512: 64 bytes)",
    )
    jwt_public_key: str | None = Field(
        None,
        description="public key that verifies tokens (RSA, EC, Ed25519): PEM text, or the path of a PEM file",
    )
    jwks_url: str | None = Field(None, description="URL of the key set (JWKS) that verifies tokens")
    jwks_headers: Annotated[dict[str, SecretStr], NoDecode] = Field(
        {}, description='headers of the request for the key set, as JSON: {"Authorization": "Bearer ..."}'
    )
    jwt_leeway: float = Field(
        5.0,
        ge=0,
        le=300,
        description="seconds that the clock of the tokens' issuer may differ from the hub's",
    )
    user_claim: str = Field("sub", min_length=1, description="claim of a token that is the user's id")
    jwt_issuer: str | None = Field(None, description="iss that a token must have; empty: iss is not checked")
    jwt_audience: str | None = Field(
        None, description="aud that a token must have; empty: aud is not checked"
    )
    jwt_max_age: float = Field(
        365 * 86400.0,
        gt=0,
        description="seconds that a token may be valid for, from now; one that lasts longer is refused",
    )
    authorized_parties: Words = Field(
        frozenset(), description="values that a token's azp may have; empty: azp is not checked"
    )
    shared_by: Words = Field(
        frozenset(),
        description="claims of a token that open a job whose hash has an equal field: org_id,team_id",
    )
    ticket_max_ttl: float = Field(
        0.0,
        ge=0,
        description="seconds that a share link may be good for; 0: there are no share links, only short tickets",
    )
    session_cookie: str = Field("__session", description="name of the cookie that carries a browser's token")
    allowed_origins: Words = Field(
        frozenset(),
        description="origins of other pages that may watch: CORS, and the cookie, on both transports",
    )

    # Viewers
    heartbeat: float = Field(
        15.0, gt=0, description="seconds of silence before a heartbeat is sent; an ALB closes at 60"
    )
    retry: float = Field(
        3.0, gt=0, description="seconds a client is told to wait before it reconnects; jittered"
    )
    send_timeout: float = Field(
        10.0, gt=0, description="seconds a viewer may take no bytes before it is closed; it can resume"
    )
    linger: float = Field(
        5.0,
        ge=0,
        description="seconds a job stays watched after its last viewer; a page reload is then cheap",
    )
    max_viewers: int = Field(
        50_000, gt=0, description="most viewers of a process; more are refused, none is evicted"
    )
    max_viewers_per_job: int = Field(
        20_000, gt=0, description="most viewers of a job; one batch of events to 20,000 takes 0.2 s"
    )
    max_viewers_per_user: int = Field(
        1_000,
        gt=0,
        description="most viewers of a user, over all jobs; as many joins at once (200 at least), and a fiftieth of them per second",
    )
    max_viewers_per_user_and_job: int = Field(50, gt=0, description="most viewers of a user on one job")
    max_misses: int = Field(
        100,
        gt=0,
        description="jobs that are not there that a user may ask for at once; further answers are slowed down",
    )
    commands: Words = Field(
        frozenset(), description="commands that viewers may give to workers: cancel,approve; empty: none"
    )
    max_commands: int = Field(
        100, gt=0, description="commands that a user may give at once; a fiftieth of them per second"
    )
    my_jobs: bool = Field(
        True, description="keep an index of each user's jobs, for GET /api/jobs and dashboards of all of them"
    )
    max_jobs_per_socket: int = Field(100, gt=0, description="most jobs on one dashboard WebSocket")
    stream_age: float = Field(
        3600.0,
        gt=0,
        description="seconds until a stream ends and resumes (80 to 100 % of it); empties old processes",
    )
    drain: float = Field(
        20.0, ge=0, description="seconds over which viewers are told to reconnect elsewhere at shutdown"
    )

    # Memory per watched job
    window_events: int = Field(
        1000, ge=1, description="most events kept of a watched job in memory, and of each job in Redis"
    )
    window_bytes: int = Field(
        1 << 20, gt=0, description="most bytes of event bodies kept in memory for a watched job"
    )
    memory: int = Field(
        0,
        ge=0,
        description="most bytes that events may take in a process; 0: half of the container's or the machine's memory",
    )
    max_event_bytes: int = Field(
        MAX_EVENT_BYTES, gt=0, description="bytes of the largest event; a larger one becomes a gap frame"
    )

    # The operator
    admin_port: int = Field(
        8001, ge=0, le=65535, description="port of /metrics, /docs and /admin; 0: there is none"
    )
    admin_host: str = Field(
        "127.0.0.1", description="address of the admin port; whoever reaches it is the operator"
    )
    admin_token: SecretStr | None = Field(
        None,
        description="Bearer token, at least 16 bytes, with which /metrics, /docs and /admin are on every port",
    )

    # Process
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe lines that are logged: debug, info, warning or error"
    )

    log_format: Literal["line", "json"] = Field(
        "line", description="a line of the log: line, or json (an object per line)"
    )

    @field_validator(
        "terminal_statuses",
        "public_fields",
        "catalogue",
        "shared_by",
        "commands",
        "authorized_parties",
        "allowed_origins",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("jwks_headers", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"expected a JSON object of headers, got other text ({error})") from None

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("jwt_secret", "jwt_public_key", "redis_url", "admin_token", mode="before")
    @classmethod
    def _stripped(cls, value: object) -> object:
        """Without the newline that an editor leaves at the end of a file."""
        return value.rstrip("\r\n") if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: frozenset[str]) -> frozenset[str]:
        """As browsers send them: no slash at the end, scheme and host in lower case."""
        return frozenset(origin.rstrip("/").lower() for origin in value)

    @field_validator("key_template")
    @classmethod
    def _with_id(cls, value: str) -> str:
        if value.count("{id}") != 1:
            raise ValueError(f"expected one {{id}} in the template, got {value!r}")
        return value

    @field_validator("terminal_statuses")
    @classmethod
    def _with_lost(cls, value: frozenset[str]) -> frozenset[str]:
        # A job whose worker was lost gets this status, and the job must end with it.
        return value | {LOST}

    @field_validator("admin_token", "jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        least = 32 if info.field_name == "jwt_secret" else 16  # as long as the hash: RFC 7518, section 3.2
        if value is not None and (got := len(value.get_secret_value().encode())) < least:
            raise ValueError(f"expected at least {least} bytes, got {got}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the files that it names."""
        return init_settings, env_settings, Files(settings_cls)

    @property
    def secrets(self) -> frozenset[str]:
        """Values that must not be shown."""
        values = [getattr(self, name) for name in type(self).model_fields]
        found = [value for value in (*values, *self.jwks_headers.values()) if isinstance(value, SecretStr)]
        return frozenset(value.get_secret_value() for value in found)

    @property
    def authenticates(self) -> bool:
        """Returns True if any kind of key is set, so that viewers can sign in."""
        return any((self.jwt_secret, self.jwt_public_key, self.jwks_url))
