"""The binding that a problem's sample is about."""

from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import bind


def bind_sample(sample: Sample) -> Problem:
    """The only binding of the sample's label config; or the one that asks about the regions of its result."""
    bindings = bind(sample.label_config).bindings
    per_region = [binding for binding in bindings if binding.is_per_region]
    (binding,) = per_region or bindings
    return binding.about(sample.result) or binding
