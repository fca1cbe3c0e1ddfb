import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lorabel.errors import UnreadableError
from lorabel.media import decode_memory as decode_memory_module
from lorabel.media.decode_memory import DecodeMemory, decode_memory


def test_no_more_is_reserved_at_a_time_than_the_limit_and_all_are_served() -> None:
    memory, seen_bytes = DecodeMemory(100), []

    def decode(size_bytes: int) -> None:
        with memory.reserve(size_bytes):
            seen_bytes.append(memory.reserved_bytes)
            time.sleep(0.001)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(decode, [30, 100, 1, 60] * 25))
    assert len(seen_bytes) == 100 and max(seen_bytes) <= 100
    assert memory.reserved_bytes == 0


def test_a_large_reservation_does_not_wait_for_ever_behind_small_ones() -> None:
    memory, order = DecodeMemory(100), []
    with memory.reserve(50):
        large = threading.Thread(target=lambda: _note(memory, 80, order, "large"))
        large.start()
        time.sleep(0.05)
        small = threading.Thread(target=lambda: _note(memory, 40, order, "small"))
        small.start()
        time.sleep(0.05)
        assert order == []
    large.join()
    small.join()
    assert order == ["large", "small"]


def test_more_than_the_limit_is_refused_for_good_and_what_fails_gives_its_memory_back() -> None:
    memory = DecodeMemory(100 * 2**20)
    message = r"decoding needs 101 MB, more than 100 \(MEDIA_DECODE_MB"
    with pytest.raises(UnreadableError, match=message) as caught, memory.reserve(101 * 2**20):
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
        with memory.reserve(40):
            assert memory.reserved_bytes == 100
    assert memory.reserved_bytes == 0


def test_a_process_has_one_memory_for_each_limit() -> None:
    assert decode_memory(64) is decode_memory(64)
    assert decode_memory(64) is not decode_memory(65)


def _note(memory: DecodeMemory, size_bytes: int, order: list[str], name: str) -> None:
    with memory.reserve(size_bytes):
        order.append(name)
        time.sleep(0.02)
