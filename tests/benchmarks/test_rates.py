import pytest

from benchmarks.rates import Request, median_ms, p99_ms, tasks_per_second


def test_a_steady_stream_has_the_same_rate_in_every_window() -> None:
    steady = [Request(i / 10, (i + 1) / 10) for i in range(100)]
    assert tasks_per_second(steady, 0.0, 10.0) == pytest.approx([10.0] * 5)


def test_the_tasks_of_a_long_request_count_evenly_over_its_time() -> None:
    assert tasks_per_second([Request(0.0, 10.0, tasks=100)], 0.0, 10.0) == pytest.approx([10.0] * 5)


def test_only_the_part_of_a_request_within_the_windows_counts() -> None:
    begun_before, ends_after = Request(-2.0, 2.0, tasks=4), Request(9.0, 19.0, tasks=10)
    assert tasks_per_second([begun_before, ends_after], 0.0, 10.0) == pytest.approx([1.0, 0, 0, 0, 0.5])


def test_a_latency_belongs_to_the_window_of_its_answer_or_to_the_last_window() -> None:
    requests = [Request(-5.0, -1.0), Request(0.5, 1.0), Request(0.8, 1.8), Request(8.0, 9.0), Request(9.0, 12.0)]
    assert median_ms(requests, 0.0, 10.0) == pytest.approx([750.0, 2000.0])
    assert p99_ms(requests, 0.0, 10.0) == pytest.approx(3000.0)
