import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lorabel.errors import UnreadableError
from lorabel.media import decode_memory as decode_memory_module
from lorabel.media.deadline import deadline
from lorabel.media.decode_memory import DecodeMemory, decode_memory


def test_no_more_is_reserved_at_a_time_than_the_limit_and_all_are_served() -> None:
    memory, seen_bytes = DecodeMemory(100), []

    def decode(size_bytes: int) -> None:
        with memory.reserve(size_bytes):
            seen_bytes.append(memory.reserved_bytes)
            time.sleep(0.001)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(decode, [30, 87, 1, 60] * 25))
    assert len(seen_bytes) == 100 and max(seen_bytes) <= 100
    assert memory.reserved_bytes == 0


def test_a_large_reservation_does_not_wait_for_ever_behind_small_ones() -> None:
    memory, order = DecodeMemory(100), []
    with memory.reserve(50):
        large = threading.Thread(target=lambda: _note(memory, 80, order, "large"))
        large.start()
        time.sleep(0.05)
        second = threading.Thread(target=lambda: _note(memory, 30, order, "second"))
        second.start()
        time.sleep(0.05)
        assert order == []
    large.join()
    second.join()
    assert order == ["large", "second"]


def test_small_files_get_on_beside_large_ones_and_do_not_keep_them_from_their_turn() -> None:
    memory, order = DecodeMemory(96), []
    with memory.reserve(50):
        large = threading.Thread(target=lambda: _note(memory, 84, order, "large"))
        large.start()
        time.sleep(0.05)
        for _ in range(3):
            _note(memory, 12, order, "small")
        with memory.reserve(12):
            third = threading.Thread(target=lambda: _note(memory, 12, order, "no room beside the small one"))
            third.start()
            time.sleep(0.05)
            assert order == ["small"] * 3
        third.join()
    large.join()
    assert order == ["small"] * 3 + ["no room beside the small one", "large"]
    assert memory.reserved_bytes == 0


def test_nobody_waits_for_memory_after_the_deadline() -> None:
    memory = DecodeMemory(100)
    with memory.reserve(80), deadline(time.monotonic() + 0.05):
        for size_bytes in (20, 80):
            with pytest.raises(UnreadableError, match="the time was over") as caught, memory.reserve(size_bytes):
                pass
            assert not caught.value.is_permanent
    with memory.reserve(80):
        assert memory.reserved_bytes == 80


def test_more_than_the_limit_is_refused_for_good_and_what_fails_gives_its_memory_back() -> None:
    memory = DecodeMemory(100 * 2**20)
    message = r"decoding needs 91 MB, more than 88, 7/8 of MEDIA_DECODE_MB"
    with pytest.raises(UnreadableError, match=message) as caught, memory.reserve(91 * 2**20):
        pass
    assert caught.value.is_permanent
    with pytest.raises(ValueError, match="broken"), memory.reserve(10):
        raise ValueError("broken")
    assert memory.reserved_bytes == 0


def test_who_waits_too_long_is_refused_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_memory_module, "MOST_WAIT_S", 0.05)
    memory = DecodeMemory(100)
    with memory.reserve(60):
        with pytest.raises(UnreadableError, match="had the memory for decoding") as caught, memory.reserve(50):
            pass
        assert not caught.value.is_permanent
        with memory.reserve(12):
            assert memory.reserved_bytes == 72
    assert memory.reserved_bytes == 0


def test_a_process_has_one_memory_for_each_limit() -> None:
    assert decode_memory(64) is decode_memory(64)
    assert decode_memory(64) is not decode_memory(65)


def _note(memory: DecodeMemory, size_bytes: int, order: list[str], name: str) -> None:
    with memory.reserve(size_bytes):
        order.append(name)
        time.sleep(0.02)
