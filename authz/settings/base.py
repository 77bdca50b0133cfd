"""What every section of the settings is."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from authz.addresses import check_listen_address

ListenAddress = Annotated[str, AfterValidator(check_listen_address)]
"""`unix:/path` or `host:port`."""


class SettingsError(Exception):
    """The settings can't be used. The text is one line that names the setting and the remedy."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
