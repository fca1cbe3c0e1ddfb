"""The settings of TLS on our own ports. They are read as a part of `lorabel.settings.Settings`.

Authorities that outgoing connections trust are those of `lorabel/network.py`.
"""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings


class TlsSettings(BaseSettings):
    """The field `tls_certificate` is the environment variable TLS_CERTIFICATE, and so on."""

    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the backend's certificate and those between it and its authority: the backend "
        "then speaks https.",
    )
    tls_key: Path | None = Field(
        None, description="PEM file with the key of TLS_CERTIFICATE; default: it is in the same file."
    )
    model_server_tls_certificate: Path | None = Field(
        None,
        description="The same for the model server, whose MODEL_SERVER_URL is then an https address.",
    )
    model_server_tls_key: Path | None = Field(
        None, description="PEM file with the key of MODEL_SERVER_TLS_CERTIFICATE; default: it is in the same file."
    )

    @model_validator(mode="after")
    def check_keys(self) -> Self:
        for name in ("tls", "model_server_tls"):
            if getattr(self, f"{name}_key") is not None and getattr(self, f"{name}_certificate") is None:
                raise ValueError(f"{name.upper()}_KEY is set without {name.upper()}_CERTIFICATE: set both")
        return self

    def check_model_server_scheme(self, url: str) -> None:
        """Raise ValueError if this is no web server's address, or one at which only the server would speak TLS."""
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https"):
            raise ValueError(
                f"MODEL_SERVER_URL is {url!r}; expected an address that begins with http:// or https://"
            )
        if self.model_server_tls_certificate is not None and scheme != "https":
            raise ValueError(
                f"MODEL_SERVER_URL is {url!r}, but MODEL_SERVER_TLS_CERTIFICATE is set: expected an https address"
            )
