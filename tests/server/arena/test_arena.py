"""StateArena keeps rows apart, grows, shares and refuses beyond its budget, on the host and on a device."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from statecell.spec import StateSpec
from statecell_server.arena.arena import INITIAL_SLOT, StateArena
from statecell_server.arena.host import HostArena
from statecell_server.arena.plan import Plan
from statecell_server.device import Device
from statecell_server.errors import StateBudgetExceeded
from statecell_server.runtimes.device_arena import DeviceArena
from statecell_server.runtimes.staging import Staging
from statecell_server.runtimes.stream import stream

Make = Callable[[Sequence[StateSpec], int, int], StateArena]

H = StateSpec("h_0", "h_n", "float32", (2, "batch", 3))
C = StateSpec("c_0", "c_n", "float32", ("batch", 4), initial=0.5)
ROW = (2 * 3 + 4) * 4


def nothing_runs(plan: Plan) -> None:
    raise AssertionError("these tests write and read only")


def host(states: Sequence[StateSpec], memory: int, rows: int) -> StateArena:
    return HostArena(states, memory, rows, nothing_runs)


def device(states: Sequence[StateSpec], memory: int, rows: int) -> StateArena:
    return DeviceArena(states, memory, rows, Staging(stream(Device())), nothing_runs, lambda: None)


@pytest.fixture(params=[host, device])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


def rows(*values: float) -> list[np.ndarray]:
    n = len(values)
    v = np.array(values, np.float32)
    return [np.broadcast_to(v[None, :, None], (2, n, 3)).copy(), np.broadcast_to(v[:, None], (n, 4)).copy()]


def test_what_is_written_is_read_in_any_order(make: Make) -> None:
    arena = make([H, C], ROW * 10, 4)
    slots = arena.allocate(5)
    arena.write(slots, rows(1, 2, 3, 4, 5))
    h, c = arena.read([slots[4], slots[0], INITIAL_SLOT])
    assert np.array_equal(h, rows(5, 1, 0)[0])
    assert np.array_equal(c, np.array([[5] * 4, [1] * 4, [0.5] * 4]))


def test_slots_all_over_the_arena_are_as_good_as_contiguous_ones(make: Make) -> None:
    arena = make([H, C], ROW * 10, 4)
    slots = arena.allocate(6)[::-2]
    arena.write(slots, rows(7, 8, 9))
    assert np.array_equal(arena.read(slots)[1], rows(7, 8, 9)[1])


def test_growing_keeps_every_row_and_the_initial_one(make: Make) -> None:
    arena = make([H, C], ROW * 5000, 64)
    first = arena.allocate(60)
    arena.write(first, rows(*range(60)))
    more = arena.allocate(3000)
    assert not set(first) & set(more)
    arena.reserve(arena.capacity)
    arena.write(more, rows(*range(3000)))
    assert np.array_equal(arena.read(first)[0], rows(*range(60))[0])
    assert np.array_equal(arena.read([INITIAL_SLOT])[1], [[0.5] * 4])


def test_beyond_the_budget_nothing_is_taken(make: Make) -> None:
    arena = make([H, C], ROW * 10, 2)
    arena.allocate(14)
    with pytest.raises(StateBudgetExceeded):
        arena.allocate(1)
    assert arena.used == 14


def test_a_shared_slot_is_free_when_its_last_owner_is_gone(make: Make) -> None:
    arena = make([H, C], ROW * 10, 2)
    slots = arena.allocate(3)
    arena.share(slots)
    arena.share(slots[:1])
    arena.free(slots)
    assert arena.used == 3
    arena.free(slots)
    assert arena.used == 1
    arena.free(slots[:1])
    assert arena.used == 0


def test_the_initial_slot_is_nobodys_to_free(make: Make) -> None:
    arena = make([H, C], ROW * 10, 2)
    arena.free([INITIAL_SLOT])
    assert INITIAL_SLOT not in arena.allocate(14)


def test_a_state_that_does_not_fit_at_all_is_named(make: Make) -> None:
    with pytest.raises(StateBudgetExceeded, match="40 bytes"):
        make([H, C], ROW - 1, 4)


def test_states_without_a_batch_axis_have_slots_all_the_same(make: Make) -> None:
    arena = make([StateSpec("s", "t", "float32", (2, 3))], 24 * 10, 2)
    a, b = arena.allocate(2)
    arena.write([a], [np.ones((2, 3), np.float32)])
    arena.write([b], [np.full((2, 3), 2, np.float32)])
    assert np.array_equal(arena.read([b])[0], np.full((2, 3), 2))
    assert np.array_equal(arena.read([a])[0], np.ones((2, 3)))
