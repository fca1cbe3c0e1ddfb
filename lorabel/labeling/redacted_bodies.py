"""Masks personal data in what Label Studio sends: the texts of tasks, of annotations and of predictions.

Masked are all texts in a task's `data`, in regions the texts that people or models have written (`value.text`,
`value.chatmessage`, `meta`), what people write elsewhere (`meta` of tasks, descriptions, comments), and names of
accounts. E-mail addresses are masked everywhere else, too. Labels, ids, times, label configs and addresses of
media stay as they are.
"""

import re
from collections import Counter
from typing import Any

from lorabel.errors import RedactionError
from lorabel.redaction import SHORTEST_PART, Found, Redactor, mask, masked_part, united

# Addresses of media: a part of them cannot be changed.
ADDRESS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]{0,20}://|data:|/)\S*")
KEPT = frozenset({"label_config", "parsed_label_config", "control_weights", "data_types", "action"})
# In regions: what people or models have written. `chatmessage` is {"role": "user", "content": "..."}.
WRITTEN = ("text", "meta", "html", "chatmessage", "reactcode")
# What people write beside tasks and regions: in projects, in tasks (`meta`), and in events about comments.
REMARKS = frozenset({"text", "meta", "title", "description", "expert_instruction", "comment", "comments"})
# Of accounts. Masked whole: one name alone is often not recognised.
ACCOUNT, ACCOUNT_NAME = frozenset({"first_name", "last_name", "username", "initials"}), "account_name"
# What only a part of a task's text has; what is written by hand has no place in it.
SPAN = frozenset({"start", "startOffset"})
# Where `reprlib.repr` and `lorabel.errors.cut` leave something out.
CUT = "..."


class RedactedBody:
    """Masks the bodies of events, and the tasks and annotations of Label Studio's API. Not thread-safe.

    Attributes:
        counts: kind -> how many were masked.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor, self._emails = redactor, redactor.only("email")
        self.counts: Counter[str] = Counter()
        self._texts: dict[str, str] = {}
        self._secrets: dict[str, list[str]] = {}  # by the text that they are in
        self._kinds: dict[str, str] = {}  # of these secrets
        self._anywhere: re.Pattern[str] | None = None  # fits any of these secrets

    def of(self, body: Any) -> Any:
        """The body with everything masked; `body` itself stays as it is.

        The tasks' data must be in the same body as their annotations, or be given before: a region's text may
        begin inside of something that is masked.

        Raises:
            RedactionError: a text cannot be masked. Nothing of the body may be stored.
        """
        self._read(body)
        return self._walk(body)

    def _read(self, body: Any) -> None:
        """Note the texts of tasks, and what is masked in them."""
        if isinstance(body, list):
            for entry in body:
                self._read(entry)
        elif isinstance(body, dict):
            for key, value in body.items():
                if key == "data":
                    self._note(value)
                elif key not in KEPT:
                    self._read(value)

    def _note(self, data: Any) -> None:
        for text in _texts(data):
            if text not in self._texts and not ADDRESS.fullmatch(text):
                found = self._redactor.find(text)
                self._texts[text] = mask(text, found, self.counts)
                self._secrets[text] = [text[each.start : each.end] for each in found]
                self._kinds |= {text[each.start : each.end]: each.kind for each in found}
                self._anywhere = None

    def _walk(self, body: Any) -> Any:
        if isinstance(body, list):
            return [self._walk(entry) for entry in body]
        if isinstance(body, str):
            return self._emails.masked(body, self.counts)
        if not isinstance(body, dict):
            return body
        return {key: self._entry(key, value) for key, value in body.items()}

    def _entry(self, key: str, value: Any) -> Any:
        if key in KEPT:
            return value
        if key == "data":
            return self._data(value)
        if key == "result" and isinstance(value, list):
            return [self._region(region) if isinstance(region, dict) else region for region in value]
        if key in REMARKS:
            return self._written(value, {})
        return self._account_name(value) if key in ACCOUNT else self._walk(value)

    def _account_name(self, name: Any) -> Any:
        if not isinstance(name, str):
            return self._walk(name)
        return mask(name, [Found(ACCOUNT_NAME, 0, len(name))], self.counts)

    def _data(self, data: Any) -> Any:
        if isinstance(data, str):
            return self._texts.get(data, data)
        if isinstance(data, list):
            return [self._data(entry) for entry in data]
        return {key: self._data(value) for key, value in data.items()} if isinstance(data, dict) else data

    def _region(self, region: dict[str, Any]) -> dict[str, Any]:
        value = region.get("value")
        masked = {key: self._written(region[key], {}) for key in WRITTEN if key in region}
        if isinstance(value, dict):
            of_value = {key: self._written(value[key], value) for key in WRITTEN if key in value}
            masked["value"] = {**value, **of_value}
        return {**region, **masked}

    def _written(self, written: Any, value: dict[str, Any]) -> Any:
        if isinstance(written, str):
            return self._span(written, value)
        if isinstance(written, list):
            return [self._written(entry, {}) for entry in written]
        if not isinstance(written, dict):
            return written
        return {
            key: self._account_name(each) if key in ACCOUNT else self._written(each, {})
            for key, each in written.items()
        }

    def _span(self, text: str, value: dict[str, Any]) -> str:
        """A region's text; where it is a span of a task's text, as that has it in this place."""
        start, end = value.get("start"), value.get("end")
        if isinstance(start, int) and isinstance(end, int):
            for whole, masked in self._texts.items():
                if whole[start:end] == text:
                    return masked[start:end]
        if SPAN & value.keys():
            return masked_part(self._redactor.masked(text, self.counts), self._secrets_around(text))
        return self._typed(text)

    def _typed(self, text: str) -> str:
        """What is written by hand, without what is a secret in a task's text: alone it may not be recognised.

        Somebody who types a name that the text has types it without the words around it.
        """
        known = [Found(self._kinds[match[0]], *match.span()) for match in self._known().finditer(text)]
        return mask(text, united([*self._redactor.find(text), *known]), self.counts)

    def _known(self) -> re.Pattern[str]:
        if self._anywhere is None:
            secrets = sorted((each for each in self._kinds if len(each) >= SHORTEST_PART), key=len, reverse=True)
            any_of = "|".join(map(re.escape, secrets)) if secrets else "(?!)"
            self._anywhere = re.compile(rf"(?<!\w)(?:{any_of})(?!\w)")
        return self._anywhere

    def _secrets_around(self, text: str) -> list[str]:
        """The secrets of the texts that a span is of; of all texts where markup is in between."""
        texts = [whole for whole in self._secrets if text in whole] or list(self._secrets)
        return [secret for whole in texts for secret in self._secrets[whole]]


def masked_reason(redactor: Redactor, data: Any, reason: str) -> str:
    """Why a task cannot be read, without personal data. It may quote what is in the task, cut with `...`.

    The sentence is ours, so models look for names in the task's data alone.

    Args:
        data: the task's.
    """
    if not redactor.is_on:
        return reason
    try:
        secrets = [secret for text in _texts(data) for secret in redactor.secrets(text)]
    except RedactionError as error:
        return f"(the reason is withheld, since the task's data cannot be masked: {error})"
    parts = redactor.by_patterns().masked(reason).split(CUT)
    return CUT.join(masked_part(part, secrets) for part in parts)


def _texts(data: Any) -> list[str]:
    if isinstance(data, str):
        return [data]
    entries = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return [text for entry in entries for text in _texts(entry)]
