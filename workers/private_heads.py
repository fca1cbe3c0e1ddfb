"""Fits heads with differential privacy (DP_EPSILON), seldom: each fit takes a part of the project's budget.

A head is fitted when its control tag has FIRST_TASKS annotated tasks, and again when there are GROWTH times as
many. In between, and once the budget is spent, the former head stays as it is. So it does from HEAD_MAX_TASKS on,
and where annotations are so many that not all were read: which tasks are left out then depends on the others, so
that one task more would change more than its own row.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from sqlalchemy.orm import undefer

from lorabel.contracts import LabelsInput
from lorabel.database import privacy_ledger, project_heads
from lorabel.database.adapter_folders import HEAD_FILE, tag_folder
from lorabel.database.tables import PrivacyRelease, Project, ProjectHead
from lorabel.families.encoders.heads.fit import label_shares
from lorabel.families.encoders.heads.fit_private import fit_private_choices
from lorabel.families.encoders.heads.parts import is_of_parts
from workers.feature_collection import Collected
from workers.fitted_head import FittedHead
from workers.privacy_accounting import Mechanism, noise_multiplier
from workers.privacy_budget import BudgetSpentError, spend
from workers.services import Services

log = logging.getLogger(__name__)

FIRST_TASKS = 64
# How many times as many tasks a fit needs as the one before it.
GROWTH = 4
UNSUPPORTED = "no head is fitted while DP_EPSILON is set: only single choices about one content have private fits"


def private_heads(
    services: Services,
    project: Project,
    collected: Mapping[str, Collected],
    adapters: Mapping[str, str],
    *,
    is_complete: bool,
    is_cut: bool,
) -> dict[str, FittedHead]:
    """The heads that are to answer: fitted anew where that is due and the budget allows it, else the former ones.

    Args:
        collected: the annotated tasks with features, by control tag.
        adapters: name of the adapter beside the head, by control tag.
        is_complete: whether all features are there. No part of the budget is spent on some of the tasks.
        is_cut: whether a limit has left annotations out.

    Raises:
        OvertakenError: another worker fits one of the heads.
    """
    with services.store.read() as session:
        former = project_heads.of_project(session, project.id, undefer(ProjectHead.annotation_ids))
        releases = privacy_ledger.releases(session, project.id)
    heads = {}
    for tag, of_tag in collected.items():
        if not of_tag.tasks:
            continue
        if not is_supported(of_tag):
            log.info("control tag %r of project %d: %s", tag, project.id, UNSUPPORTED)
            continue
        labels, count = of_tag.tasks[0].labels, len(of_tag.tasks)
        newest = privacy_ledger.newest_fit(releases, tag, labels)
        least = FIRST_TASKS if newest is None else GROWTH * newest.tasks
        # Those that are chosen: a task that cannot be read has taken the place of another one.
        is_cut_here = is_cut or len(of_tag.chosen) >= services.settings.head_max_tasks
        head = None
        if count >= least and is_complete and not is_cut_here:
            head = _fit(services, project.id, tag, adapters.get(tag), of_tag, newest)
        if head is None and tag in former and former[tag].labels == labels:
            head = _former(services, former[tag])
        if head is not None:
            heads[tag] = head
    return heads


def is_supported(collected: Collected) -> bool:
    """Whether the tasks are asked single choices about one content, and each of them is one example."""
    questions = [task.example.question for task in collected.tasks if task.example is not None]
    return not is_of_parts(collected.space) and all(map(is_single_choice, questions))


def is_single_choice(question: object) -> bool:
    """Whether one of a flat list of labels is asked for, of one content."""
    return (
        isinstance(question, LabelsInput)
        and not question.is_multiple
        and not question.parents
        and len(question.contents) == 1
    )


def _fit(
    services: Services,
    project_id: int,
    tag: str,
    adapter: str | None,
    collected: Collected,
    newest: PrivacyRelease | None,
) -> FittedHead | None:
    """None if the budget is spent, or if the noise hides what there is to learn."""
    mechanism = Mechanism(noise_multiplier(services.settings))
    tasks, labels = collected.tasks, collected.tasks[0].labels
    try:
        release = spend(
            services.store,
            services.settings,
            project_id,
            tag,
            mechanism,
            len(tasks),
            privacy_ledger.HEAD,
            labels,
            newest_id=None if newest is None else newest.id,
        )
    except BudgetSpentError as error:
        log.warning("control tag %r: %s", tag, error)
        return None
    examples = [task.example for task in tasks if task.example is not None]
    head = fit_private_choices(
        np.concatenate([example.features for example in examples]),
        np.stack([example.logits for example in examples]),
        np.stack([label_shares(example.target, len(example.logits)) for example in examples]),
        mechanism.noise_multiplier,
        # Noise that somebody could repeat would hide nothing, so SEED has no part in it.
        np.random.default_rng(),
    )
    log.info(
        "control tag %r of project %d: a private fit on %d tasks, epsilon %.2f of %g is spent",
        tag,
        project_id,
        len(tasks),
        release.epsilon,
        release.budget,
    )
    if head is None:
        return None
    ids = sorted(annotation_id for task in tasks for annotation_id in task.annotation_ids)
    head = replace(head, kind=LabelsInput.kind, space=collected.space)
    return FittedHead(head.to_bytes(), labels, adapter, ids)


def _former(services: Services, row: ProjectHead) -> FittedHead | None:
    """None if its file is gone."""
    file = services.adapter_folders.root / row.folder / tag_folder(row.from_name) / HEAD_FILE
    try:
        return FittedHead(file.read_bytes(), row.labels, row.adapter, row.annotation_ids)
    except FileNotFoundError:
        log.warning("the head of control tag %r is gone, and its budget spent: %s", row.from_name, file)
        return None
