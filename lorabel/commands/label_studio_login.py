"""Where `lorabel connect` gets Label Studio's address and the token from, if they are not in its options."""

import getpass
import sys

from lorabel.errors import SettingsError
from lorabel.label_studio.address import checked_address
from lorabel.settings import Settings


def named_address(settings: Settings, option: str | None) -> str:
    """Label Studio's address: the option, else LABEL_STUDIO_URL.

    Raises:
        SettingsError: neither is given, or it is no address of Label Studio.
    """
    if option is not None:
        return checked_address(option, "--label-studio-url")
    if settings.label_studio_url is None:
        raise SettingsError("give Label Studio's address as --label-studio-url or LABEL_STUDIO_URL")
    return checked_address(settings.label_studio_url, "LABEL_STUDIO_URL")


def named_token(settings: Settings, option: str | None) -> str:
    """The token: the option, else LABEL_STUDIO_API_KEY, else what a person types at a prompt, unseen.

    Other users of the machine can read an option in the list of processes, but neither of the others.

    Raises:
        SettingsError: there is no token, and nobody can be asked for one.
    """
    token = option
    if token is None and settings.label_studio_api_key is not None:
        token = settings.label_studio_api_key.get_secret_value()
    if token is None and sys.stdin.isatty():
        token = getpass.getpass("Token (Label Studio: Account & Settings): ")
    if token is None or not token.strip():
        raise SettingsError("give the token as LABEL_STUDIO_API_KEY or --api-key")
    return token.strip()
