"""The webhook of a connected project: `lorabel connect` gives it all actions and the project's secret, `lorabel
doctor` compares it with what the database knows.

Label Studio makes a webhook without headers when a backend is added, unless there is one with the same address. It
never changes or deletes it afterwards.
"""

from collections.abc import Collection
from contextlib import closing
from datetime import timedelta

from lorabel.commands.checks import CheckFailed
from lorabel.database import projects, webhook_secrets
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import Webhook
from lorabel.settings import Settings


def set_webhook(
    settings: Settings,
    label_studio: LabelStudio,
    project_id: int,
    url: str,
    headers: dict[str, str],
    *,
    is_secret_new: bool = False,
    overlap: timedelta = webhook_secrets.OVERLAP,
) -> tuple[bool, str]:
    """Make or mend the webhook at an address and set its secret. No event is refused meanwhile.

    Args:
        project_id: our own id of the project.
        headers: what the webhook needs besides the secret.
        is_secret_new: replace the secret although it is right.
        overlap: for how long events with the earlier secret are still accepted.

    Returns:
        Whether something was changed, and the finding.

    Raises:
        LabelStudioError: Label Studio refuses the webhook or cannot be reached. Events are accepted as before.
    """
    with closing(Store.open(settings)) as store:
        with store.read() as session:
            project = projects.get(session, project_id)
        webhooks = label_studio.webhooks(project.label_studio_id)
        secret = None if is_secret_new else _find_secret(project, webhooks)
        is_changed = secret is None
        if secret is None:
            secret = webhook_secrets.generate()
            webhook_secrets.announce(store, project_id, secret)
        at_url = [webhook for webhook in webhooks if webhook.url == url]
        right_headers = {**headers, webhook_secrets.HEADER: secret}
        is_changed |= _set_one(label_studio, project.label_studio_id, url, at_url, right_headers)
        is_changed |= webhook_secrets.enforce(store, project_id, overlap)
    what = ", our Authorization header" if headers else ""
    removed = f"; {len(at_url) - 1} others with this address are removed" if at_url[1:] else ""
    return is_changed, f"sends all actions{what} and a secret{removed}: {url}"


def check_webhook(project: Project, webhooks: Collection[Webhook], headers: dict[str, str], remedy: str) -> str:
    """Compare the webhooks at our address with what the database knows. Changes nothing.

    Returns:
        The finding about the secret.

    Raises:
        CheckFailed: an event would come twice, or not at all, or would be refused.
    """
    webhook = next(iter(webhooks))
    if len(webhooks) > 1:
        raise CheckFailed(f"{len(webhooks)} webhooks send to {webhook.url}, so events come several times", remedy)
    if not webhook.is_right(headers):
        raise CheckFailed(
            f"the webhook to {webhook.url} is off, partial, or lacks our Authorization header", remedy
        )
    if project.secret_hash is None:
        return f"without a secret, so that anybody can forge events: {remedy}"
    secret = webhook.headers.get(webhook_secrets.HEADER)
    if not webhook_secrets.is_secret_of(project, secret):
        fault = "lacks its secret" if secret is None else "has a secret that is not ours"
        raise CheckFailed(f"the webhook to {webhook.url} {fault}, so its events are refused", remedy)
    if project.secret_enforced_at is None:
        raise CheckFailed("the last `lorabel connect` did not end, so events need no secret yet", remedy)
    return "with the secret that we need"


def _find_secret(project: Project, webhooks: Collection[Webhook]) -> str | None:
    """The project's secret, if one of its webhooks has it, also one with another address."""
    secrets = (webhook.headers.get(webhook_secrets.HEADER) for webhook in webhooks)
    return next((secret for secret in secrets if webhook_secrets.is_secret_of(project, secret)), None)


def _set_one(
    label_studio: LabelStudio,
    label_studio_id: LabelStudioId,
    url: str,
    at_url: list[Webhook],
    headers: dict[str, str],
) -> bool:
    """Make sure that exactly one webhook is at the address, and that it is right. Returns whether that changed."""
    if not at_url:
        label_studio.add_webhook(label_studio_id, url, headers)
        return True
    is_right = at_url[0].is_right(headers)
    if not is_right:
        label_studio.repair_webhook(at_url[0], headers)
    for duplicate in at_url[1:]:
        label_studio.delete_webhook(duplicate.id)
    return not is_right or len(at_url) > 1
