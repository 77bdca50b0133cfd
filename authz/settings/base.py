"""What every section of the settings is."""

from pydantic import BaseModel, ConfigDict


class SettingsError(Exception):
    """The settings can't be used. The text is one line that names the setting and the remedy."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
