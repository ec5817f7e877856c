"""What the owner of a server sets: how many jobs at once, who may do what, and limits. One model, no torch.

Every field is an environment variable (`jobs` is `$MTZ_JOBS`) and an option of `mtz app` (`--jobs`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from mtz_core.errors import SpecError
from mtz_core.system.threads import cores

LOCAL = ("localhost", "127.0.0.1", "::1")


class ServerSettings(BaseModel):
    """Settings of one server. `None` is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: int = Field(
        default_factory=lambda: max(1, cores() // 2), ge=1,
        description="jobs that compute at the same time: runs, plans, checks and inspections together; default: half "
        "as many as there are cores",
    )  # fmt: skip
    short_jobs: int | None = Field(
        None, ge=0,
        description="further places for jobs of seconds (checks, inspections), so that they need not wait for a run; "
        "default: 1 where everything belongs to everyone, else 0",
    )  # fmt: skip
    job_memory: int = Field(
        600, ge=1, description="MiB that a job is expected to take; it starts only if they are free"
    )
    keep_free: int = Field(256, ge=0, description="MiB that jobs leave to the rest of the machine")
    owners: Literal["auto", "browser", "everyone"] = Field(
        "auto",
        description="whose a run is: of the browser that started it, or everyone's; `auto`: everyone's if the "
        "dashboard listens on this computer only, else the browser's",
    )
    admin: SecretStr | None = Field(
        None,
        min_length=8,
        description="token of the administrator, at least 8 characters: `?admin=TOKEN` once in the address",
    )
    most_steps: int | None = Field(None, ge=0, description="retraining steps of a run, at most")
    most_images: int | None = Field(None, ge=1, description="calibration images per task, at most")
    most_upload: int | None = Field(None, ge=1, description="MiB of an uploaded file, at most")
    most_disk: int | None = Field(None, ge=1, description="MiB of the run store and the uploads together, at most")
    most_jobs: int | None = Field(None, ge=1, description="jobs of one browser that wait or work, at most")
    curves: bool = Field(
        True,
        description="whether what sharing costs is measured as soon as networks are chosen, while nobody else waits; "
        "otherwise only for a plan",
    )
    keep_days: float | None = Field(
        None,
        gt=0,
        description="days after which the ended runs of browsers are deleted; those of the command line stay",
    )

    def by_browser(self, address: str | None) -> bool:
        """Whether runs belong to browsers, where the dashboard listens on `address`."""
        return self.owners == "browser" or (self.owners == "auto" and address not in LOCAL)

    def extra_places(self, address: str | None) -> int:
        """Places for short jobs beside the others."""
        return self.short_jobs if self.short_jobs is not None else int(not self.by_browser(address))


def variable(field: str) -> str:
    """Return the environment variable of a field.

    >>> variable("most_steps")
    'MTZ_MOST_STEPS'
    """
    return f"MTZ_{field.upper()}"


def server_settings(environment: Mapping[str, str] | None = None) -> ServerSettings:
    """Read the settings from the environment. Raises `SpecError`, naming the variable that makes no sense."""
    given = os.environ if environment is None else environment
    fields = {name: given[variable(name)].strip() for name in ServerSettings.model_fields if variable(name) in given}
    try:
        return ServerSettings.model_validate({name: text for name, text in fields.items() if text})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = str(first["loc"][0])
        shown = "" if name == "admin" else f" is {fields[name][:40]!r}"
        raise SpecError(f"${variable(name)}{shown}: {first['msg']}; put it right, or unset it") from None
