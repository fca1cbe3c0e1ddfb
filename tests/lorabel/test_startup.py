"""The garbage collector at the start of a process."""

import gc

import pytest

from lorabel.startup import garbage_collector_paused


def test_what_is_made_in_the_block_is_kept_out_of_the_sight_of_the_garbage_collector() -> None:
    with garbage_collector_paused():
        made_here = [["something that the garbage collector tracks"]]
        is_paused = not gc.isenabled()
    made_later = [["something else"]]
    assert is_paused and gc.isenabled()
    tracked = {id(thing) for thing in gc.get_objects()}
    assert id(made_here) not in tracked
    assert id(made_later) in tracked


def test_the_garbage_collector_goes_on_after_a_failed_import() -> None:
    with pytest.raises(ImportError), garbage_collector_paused():
        raise ImportError("no such module")
    assert gc.isenabled()
