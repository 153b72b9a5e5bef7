"""Settings that stand in files, as secrets do in containers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from hub.errors import InvalidSettings


class Files(PydanticBaseSettingsSource):
    """`HUB_JWT_SECRET_FILE=/run/secrets/jwt` reads the value of `HUB_JWT_SECRET` from a file, and so for
    every setting."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """The content of the field's file, None if no variable names one. Raises InvalidSettings."""
        name = f"HUB_{field_name.upper()}"
        path = os.environ.get(f"{name}_FILE")
        if not path:
            return None, field_name, False
        if os.environ.get(name):
            raise InvalidSettings(f"expected {name} or {name}_FILE, got both")
        try:
            return Path(path).read_text().rstrip("\r\n"), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(
                f"expected a file to read in {name}_FILE, got {path!r} ({error})"
            ) from error

    def __call__(self) -> dict[str, Any]:
        found = {
            name: self.get_field_value(one, name)[0] for name, one in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}
