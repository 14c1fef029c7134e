"""Modes that are off, but within a block."""

import threading

import pytest

from titanlab.platform.switch import Switch, as_now


def test_it_is_on_within_a_block_of_its_own_thread_alone() -> None:
    switch, other = Switch("one"), Switch("two")
    assert not switch
    with switch.turned():
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(bool(switch)))
        thread.start()
        thread.join()
        assert switch and not other and seen == [False]
        with switch.turned(False):
            assert not switch
        assert switch
    assert not switch


def test_an_error_turns_it_back() -> None:
    switch = Switch("one")
    with pytest.raises(ZeroDivisionError), switch.turned():
        raise ZeroDivisionError
    assert not switch


def test_another_thread_later_can_turn_all_as_they_were() -> None:
    switch, other = Switch("one"), Switch("two")
    with switch.turned():
        as_here = as_now()
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        with other.turned():
            with as_here():
                seen.append((bool(switch), bool(other)))
            seen.append((bool(switch), bool(other)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(True, False), (False, True)]
