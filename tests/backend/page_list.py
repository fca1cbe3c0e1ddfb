"""The pages that the browser test opens, with what `page_history` and `page_projects` have written.

`test_page_list.py` fails where a route has no page here and no reason in NO_PAGES.
"""

from collections.abc import Mapping
from types import MappingProxyType

P1, P2, P3, P4, P5 = (f"/ui/projects/{number}" for number in range(1, 6))
PAGES: Mapping[str, str] = MappingProxyType(
    {
        "home": "/ui/",
        "project": P1,
        "groups": f"{P1}?group=country",
        "growth": f"{P2}?target=0.95",
        "new-project": P5,
        "version": f"{P1}/versions/v3",
        "version-of-boxes": f"{P3}/versions/v2",
        "base-models": f"{P1}/versions/v0",
        "compare": f"{P1}/versions/v3/compare",
        "compare-boxes": f"{P3}/versions/v2/compare?show=better",
        "compare-masks": f"{P3}/versions/v2/compare?tag=mask&show=better",
        "compare-nothing": f"{P2}/versions/v6/compare",
        "promote": f"{P1}/versions/v2/promote",
        "roll-back": f"{P1}/rollback",
        "train": f"{P1}/train",
        "runs": "/ui/runs",
        "project-runs": f"{P1}/runs",
        "no-runs": f"{P5}/runs",
        "running": f"{P1}/training/5",
        "failed": f"{P1}/training/4",
        "bulk": f"{P1}/bulk/1",
        "bulk-running": f"{P3}/bulk/2",
        "cancel": f"{P1}/training/5/cancel",
        "cancel-bulk": f"{P3}/bulk/2/cancel",
        "search": f"{P1}/tasks",
        "found": f"{P4}/tasks?like=1",
        "corrected": f"{P1}/tasks?show=model",
        "contradicted": f"{P1}/tasks?show=annotators",
        "label-errors": f"{P1}/tasks?show=errors",
        "no-label-errors": f"{P5}/tasks?show=errors",
        "unsure": f"{P5}/tasks?show=unsure",
        "cell": f"{P1}/cell?tag=shape&annotated=star&predicted=square",
        "explanation": f"{P1}/tasks/1054",
        "explanation-of-text": f"{P4}/tasks/1",
        "explanation-of-boxes": f"{P3}/tasks/3001",
        "accept": f"{P1}/accept",
        "no-acceptances": f"{P5}/accept",
        "accept-question": f"{P1}/accept/write?precision=0.95",
        "review-question": f"{P1}/accept/write?precision=0.95&review=1",
        "undo-question": f"{P1}/accept/1/undo",
        "rules": f"{P2}/rules",
        "no-rules": f"{P1}/rules",
        "forget": f"{P1}/forget",
        "forget-task": f"{P1}/forget?kind=task&id=1054",
        "forget-annotator": f"{P1}/forget?kind=annotator&id=8&retrain=1",
        "forget-project": f"{P1}/forget?kind=project",
        "forgotten": f"{P1}/forget?kind=task&id=77",
        "connect": "/ui/connect",
        "label-config": "/ui/label-config",
        "missing-project": "/ui/projects/77",
        "missing-page": "/ui/nothing",
    }
)
"""Name of the screenshot -> address."""
MISSING = (PAGES["missing-project"], PAGES["missing-page"])
"""Addresses that answer 404."""
NO_PAGES: Mapping[str, str] = MappingProxyType(
    {
        "pages.static": "files, which every page loads",
        "pages.show_thumbnail": "a picture on lists of tasks and on versions side by side",
        "pages.show_picture": "a picture on the page of a task",
        "pages.stream_events": "a part of the pages of runs",
        "pages.stream_forget_plan": "a part of the page that forgets",
        "pages.connect.stream_findings": "a part of the page that connects",
        "pages.connect.show_connecting": "needs a Label Studio: tests/e2e/test_connect_in_browser.py",
    }
)
"""Endpoint -> why the browser test does not open it as a page."""
