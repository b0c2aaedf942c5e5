"""The base of every configuration section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of the YAML file: frozen, an unknown key is an error, every field has a default and limits."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
