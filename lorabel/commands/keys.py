"""`lorabel keys rotate`: encrypts all stored tokens anew."""

from lorabel.commands.context import open_context
from lorabel.database import stored_tokens
from lorabel.secret_keys import VARIABLE


def rotate() -> None:
    """Encrypt all stored tokens with a new key in the file, or with the first key of LORABEL_SECRET_KEY.

    Services may run meanwhile. After a kill, both keys are in the file, and the next call goes on.

    Raises:
        SecretKeyError: a token was encrypted with a key that is not known here; nothing was changed.
    """
    with open_context() as context:
        keyring = context.store.keyring
        stored_tokens.check(context.store)
        with keyring.rotation():
            count = stored_tokens.seal_again(context.store)
        if context.store.is_sqlite:
            context.store.compact()
        origin = keyring.origin
        rest = f"; other keys in {VARIABLE} are needed no more" if keyring.file is None else ""
        context.console.print(
            f"{count} tokens are encrypted with the first key of {origin}{rest}", highlight=False, soft_wrap=True
        )
