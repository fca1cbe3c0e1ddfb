"""The paths under which Label Studio 1.23.2 serves media. Its token is sent to no other path.

    /data/upload/1/a.png                   an uploaded file (data_import/urls.py)
    /storage-data/uploaded/?filepath=...   an uploaded file that is kept in a cloud (data_import/urls.py)
    /data/local-files/?d=folder/a.png      a file of a local storage (io_storages/urls.py)
    /tasks/5/resolve/?fileuri=...          a file of a cloud storage, redirected or passed on (io_storages/urls.py)

A token opens the whole API: `/api/current-user/token` answers with the token itself.
"""

import posixpath
import re
from urllib.parse import parse_qs, unquote, urlsplit

MEDIA_PATH = re.compile(
    r"(?P<base>.*?)/(?:data/upload/.+|data/local-files/?|storage-data/uploaded/?"
    r"|(?:tasks|projects)/[0-9]+/(?:resolve|presign)/?)",
    re.DOTALL,
)
LOCAL_FILE_PATH = re.compile(r".*?/data/local-files/?", re.DOTALL)
DOTS = frozenset({".", ".."})


def media_base(url: str) -> str | None:
    """The path before Label Studio's own path: "/labels" for "http://host/labels/data/upload/1/a.png".

    The caller compares it with the path of Label Studio's address: "/api/x/data/upload/1/a.png" has a base, too.

    Returns:
        None if Label Studio serves no media there. A path with dots ("/data/upload/../../api/") is no such path,
        since proxies shorten it.
    """
    path = urlsplit(url).path
    segments = unquote(unquote(path)).replace("\\", "/").split("/")
    match = MEDIA_PATH.fullmatch(path)
    return None if match is None or DOTS.intersection(segments) else match["base"]


def is_local_file(url: str) -> bool:
    """Whether the URL names a file of a local storage."""
    return LOCAL_FILE_PATH.fullmatch(urlsplit(url).path) is not None


def local_file_path(url: str) -> str:
    """The path of a local storage's file under LOCAL_FILES_DOCUMENT_ROOT, as Label Studio's own view reads it.

    The query is decoded once, the last `d` counts, and the path is relative even if it begins with a slash
    (io_storages/localfiles/views.py).

    Returns:
        An empty path if the URL names no file. The path may lead out of the folder ("../a.png").
    """
    values = parse_qs(urlsplit(url).query, keep_blank_values=True).get("d", [""])
    return posixpath.normpath(values[-1]).lstrip("/") if values[-1] else ""
