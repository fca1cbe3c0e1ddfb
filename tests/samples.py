"""The bindings of the samples of problems."""

from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import bind


def binding_of(problem: type[Problem], sample: Sample) -> Problem:
    """The problem's own binding; a sample's label config may have control tags that other problems serve.

    A binding that asks about each region asks about those of the sample's result.
    """
    (binding,) = (each for each in bind(sample.label_config).bindings if type(each) is problem)
    return binding.about(sample.result) or binding
