import os
import time

from benchmarks import costs
from benchmarks.costs import Costs


def test_the_cpu_time_of_a_process_is_that_of_its_threads() -> None:
    before, began = costs.cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < began + 0.1:
        pass
    assert costs.cpu_seconds(os.getpid()) >= before + 0.08


def test_a_process_that_has_ended_takes_no_time() -> None:
    assert costs.cpu_seconds(2**22 + 1) == 0.0


def test_a_part_that_was_started_between_two_readings_counts_in_full() -> None:
    later = Costs({"backend": 3.0, "worker-bulk": 2.0}, 1.5, 10, 80, 20.0)
    spent = later - Costs({"backend": 1.0}, 0.5, 4, 20, 10.0)
    assert spent == Costs({"backend": 2.0, "worker-bulk": 2.0}, 1.0, 6, 60, 10.0)


def test_lines_of_nvidia_smi_without_memory_are_left_out() -> None:
    assert list(costs._memory_lines("4711, 1538\n4712, [N/A]\n\nNo devices\n")) == [(4711, 1538.0)]
