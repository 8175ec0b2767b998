"""The proof of finished programs: what it finds, and that it finds it where it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from support.memories import random_program
from support.programs import AWKWARD

from moevit.compiler import Program, compile_network, driver
from moevit.compiler.check import Finding, UnprovenError, prove, verify
from moevit.compiler.check.credits import Ledger
from moevit.compiler.check.order import order
from moevit.compiler.check.steps import make_steps
from moevit.hw.config import preset
from moevit.hw.image import BlockHeader
from moevit.hw.isa import Destination, Fetch, Gemm, Instruction, Load, Norm, Store, Sync
from moevit.quant.random_network import Sizes, random_network
from moevit.sim.mutants import with_code

MICRO = preset("micro")
TASK = "task0"
TIGHT = MICRO.but(memory__activation_words=232, memory__residual_words=200, memory__kv_rows=22)
LONG = Sizes(
    image_height=40, image_width=40, heads=4, depth=3, moe=(1,), hidden=250, expert_hidden=200
)


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(random_network(7, Sizes(image_width=40)), MICRO, [TASK])


@pytest.fixture(scope="module")
def fetching() -> Program:
    sizes = Sizes(moe=(0, 1), experts=5)
    return compile_network(random_network(7, sizes), MICRO, [TASK], threshold=float("inf"))


Code = list[Instruction]


def findings(program: Program, change: Callable[[Code], Code | None]) -> list[Finding]:
    """What is found when ``change`` has been at the instructions."""
    code = program.instructions(TASK)
    changed = change(code)
    return [f for _, f in verify(with_code(program, TASK, changed or code)).findings]


def where(code: Code, which: Callable[[Instruction], bool], skip: int = 0) -> int:
    return [n for n, i in enumerate(code) if which(i)][skip]


def test_compiled_programs_are_proven(program: Program) -> None:
    report = verify(program)
    assert report.proven
    (entry,) = report.entries
    assert (entry.name, entry.instructions) == (TASK, program.header(TASK).code_count)
    assert not findings(program, lambda code: None)  # written anew, it is the same


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed: int) -> None:
    """No alarm; `compile_network` would raise one."""
    made = random_program(seed, together=bool(seed // 2 % 2)) or random_program(seed)
    if made is None:
        pytest.skip("no program")
    assert verify(made[1]).proven


def test_every_compilation_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(driver, "prove", seen.append)
    program = compile_network(random_network(1, AWKWARD["one patch"]), MICRO)
    assert seen == [program]


def test_a_missing_wait_names_both_instructions_and_the_words(program: Program) -> None:
    code = program.instructions(TASK)
    taker = where(code, lambda i: isinstance(i, Gemm) and i.mode == Destination.RESIDUAL and i.wait)
    giver = where(code, lambda i: isinstance(i, Load))
    broken = with_code(
        program,
        TASK,
        [replace(i, wait=0, wait_count=0) if n == taker else i for n, i in enumerate(code)],
    )
    first = verify(broken).findings[0][1]
    assert first.kind == "order"
    assert first.instructions == (giver, taker) or first.instructions[1] == taker
    assert first.words is not None
    with pytest.raises(UnprovenError, match=rf"instruction {taker} \(GEMM, .*\[\d+\.\.\d+\]"):
        prove(broken)


def test_a_credit_left_over(program: Program) -> None:
    def one_more(code: Code) -> Code:
        n = where(code, lambda i: isinstance(i, Sync) and i.count)
        return [*code[:n], replace(code[n], count=code[n].count + 1), *code[n + 1 :]]

    assert [f.kind for f in findings(program, one_more)][-1] == "credits"


def test_a_take_that_nobody_covers(program: Program) -> None:
    def mute(code: Code) -> Code:
        n = where(code, lambda i: isinstance(i, Norm) and i.signal)
        return [*code[:n], replace(code[n], signal=0), *code[n + 1 :]]

    (found,) = findings(program, mute)
    assert found.kind == "deadlock"
    assert "takes" in found.message


def test_two_takers_of_a_semaphore(program: Program) -> None:
    def steal(code: Code) -> Code:
        norm = code[where(code, lambda i: isinstance(i, Norm) and i.wait)]
        n = where(code, lambda i: isinstance(i, Store))
        return [*code[:n], replace(code[n], wait=norm.wait), *code[n + 1 :]]

    (found,) = findings(program, steal)
    assert "two engines take" in found.message


@pytest.mark.parametrize("moe", [0, 1])
def test_the_place_for_a_gates_input(moe: int) -> None:
    """Where it lies over inputs of attention, its NORM waits for a SYNC behind the last reader.

    Without that SYNC and the NORM's credit for it all counts match, and only the order is lost.
    """
    sizes = replace(LONG, ahead=True, moe=(moe,), image_height=32, image_width=64)
    network = random_network(3, replace(sizes, class_token=False))
    program = compile_network(network, TIGHT, [TASK])
    code = program.instructions(TASK)
    place = program.task(TASK).notes.index("place for the gate's input")
    norm = next(n for n in range(place, len(code)) if isinstance(code[n], Norm))
    changed = list(code)
    changed[norm] = replace(code[norm], wait_count=code[norm].wait_count - 1)
    del changed[place]
    mutant = with_code(program, TASK, changed)
    (found,) = [f for _, f in verify(mutant).findings]
    assert (found.kind, found.memory) == ("order", "A")
    assert found.instructions[1] == norm - 1
    regions = {r.name: r for r in program.regions}
    assert found.words is not None
    assert regions["gate inputs"].base == found.words[0]
    assert regions["inputs of attention"].end == found.words[1] + 1


def test_a_fetch_that_still_looks_at_its_queue(fetching: Program) -> None:
    """The next block's router fills the queues again: it must wait for the last FETCH's look."""
    code = fetching.instructions(TASK)
    last = where(code, lambda i: isinstance(i, Fetch) and i.signal)
    sync = where(code, lambda i: isinstance(i, Sync) and i.wait == code[last].signal)
    changed = list(code)
    changed[last] = replace(code[last], signal=0)
    del changed[sync]
    (found,) = [f for _, f in verify(with_code(fetching, TASK, changed)).findings]
    assert (found.kind, found.memory) == ("order", "queue")
    assert found.words is not None
    assert isinstance(code[found.instructions[0]], Fetch)
    assert code[found.instructions[0]].queue == found.words[0]


# Weights ---------------------------------------------------------------------------------------
def test_rows_of_the_stream_in_another_order(program: Program) -> None:
    def swap(code: Code) -> Code:
        shapes = [(i.depth, i.otiles) if isinstance(i, Gemm) else None for i in code]
        n = next(
            n for n in range(len(code)) if shapes[n] and shapes[n + 1] not in (None, shapes[n])
        )
        return [*code[:n], code[n + 1], code[n], *code[n + 2 :]]

    assert findings(program, swap)[0].kind == "weights"


def test_rows_that_are_kept(program: Program) -> None:
    def keep(code: Code) -> Code:
        n = where(code, lambda i: isinstance(i, Gemm), 5)
        return [*code[:n], replace(code[n], keep=1), *code[n + 1 :]]

    first = findings(program, keep)[0]
    assert first.kind == "weights"
    assert "keeps" in first.message


def test_a_weight_of_less_than_minus_127(program: Program) -> None:
    memory = program.memory.copy()
    header, base = program.header(TASK), program.task(TASK).base
    blocks: list[BlockHeader] = program.blocks(TASK)
    first = base + header.stream_offset + 16 * (1 + blocks[0].param_rows * MICRO.param_row_beats)
    memory[first] = 0x80
    (_, found), *_ = verify(replace(program, memory=memory)).findings
    assert "-128" in found.message


def test_fetched_rows_of_another_expert(fetching: Program) -> None:
    def swap(code: Code) -> Code:
        first, second = (where(code, lambda i: isinstance(i, Fetch), n) for n in (0, 1))
        a, b = code[first], code[second]
        changed = list(code)
        changed[first] = replace(a, queue=b.queue)
        changed[second] = replace(b, queue=a.queue)
        return changed

    first = findings(fetching, swap)[0]
    assert first.kind == "weights"
    assert "next come" in first.message


def test_fetches_that_wait_for_gemms_behind_them() -> None:
    """All FETCHes in front of the GEMMs that make room for them, more than their queue holds."""
    config = MICRO.but(memory__demand_rows=32, memory__demand_param_rows=32)
    sizes = Sizes(experts=8, moe=(0,), expert_hidden=70)
    network = random_network(2, sizes)
    program = compile_network(network, config, [TASK], threshold=float("inf"))
    code = program.instructions(TASK)
    fetches = [n for n, i in enumerate(code) if isinstance(i, Fetch)]
    assert len(fetches) > 17
    in_front = [*code[: fetches[0]], *(code[n] for n in fetches)]
    in_front += [i for i in code[fetches[0] :] if not isinstance(i, Fetch)]
    first = verify(with_code(program, TASK, in_front)).findings[0][1]
    assert first.kind == "deadlock"
    assert "waits for room" in first.message


# Addresses and contents ------------------------------------------------------------------------
def test_words_outside_a_memory(program: Program) -> None:
    def beyond(code: Code) -> Code:
        n = where(code, lambda i: isinstance(i, Gemm) and i.mode == Destination.KEY)
        return [*code[:n], replace(code[n], target=MICRO.memory.kv_rows - 1), *code[n + 1 :]]

    found = [f for f in findings(program, beyond) if f.kind == "address"]
    assert found[0].memory == "KV"
    assert found[0].words is not None
    assert found[0].words[1] >= MICRO.memory.kv_rows


def test_bytes_outside_their_area(program: Program) -> None:
    def result(code: Code) -> Code:
        n = where(code, lambda i: isinstance(i, Store))
        return [*code[:n], replace(code[n], address=code[n].address + 16), *code[n + 1 :]]

    def pool(code: Code) -> Code:
        n = where(code, lambda i: isinstance(i, Load) and i.kind == 1)
        offset = program.header(TASK).stream_offset
        return [*code[:n], replace(code[n], address=offset), *code[n + 1 :]]

    for change, words in ((result, "outside the result's"), (pool, "instructions or a stream")):
        first = findings(program, change)[0]
        assert first.kind == "address"
        assert words in first.message


def test_words_that_nothing_has_written(program: Program) -> None:
    """In the first block nothing older stands where the last patch's pixels end."""

    def beside(code: Code) -> Code:
        n = where(code, lambda i: isinstance(i, Gemm) and i.mode == Destination.RESIDUAL)
        last = max(m for m in range(n, n + 8) if code[m].wait == code[n].wait)
        gemm = code[last]
        assert isinstance(gemm, Gemm)
        changed = replace(gemm, source=gemm.source + gemm.stride * gemm.tokens)
        return [*code[:last], changed, *code[last + 1 :]]

    assert "undefined" in {f.kind for f in findings(program, beside)}


def test_a_result_that_is_not_stored(program: Program) -> None:
    def shorter(code: Code) -> Code:
        n = where(code, lambda i: isinstance(i, Store))
        return [*code[:n], replace(code[n], rows=code[n].rows - 1), *code[n + 1 :]]

    assert "output" in {f.kind for f in findings(program, shorter)}


# Credits of several engines --------------------------------------------------------------------
def steps(*code: Instruction) -> list:
    return make_steps(MICRO, code)


def load(**fields: int) -> Load:
    return Load(kind=1, beats=1, **fields)


def test_credits_of_two_engines_prove_what_all_ways_have_in_common() -> None:
    """Three credits of a LOAD and two NORM tiles: all of them. Two of the three: any two."""
    norm = Norm(words=1, tokens=4, dim=1, signal=1)  # two tiles of two tokens
    take = Sync(wait=1, wait_count=3)
    (_, _, found), _ = order(steps(norm, load(signal=1), take))
    loader = found.begins[5][0]
    assert (loader[4], loader[1]) == (2, 1)
    some = (Sync(wait=1, wait_count=2), Sync(wait=1, wait_count=1))
    (_, _, first, second), _ = order(steps(norm, load(signal=1), *some))
    assert (first.begins[5][0][4], first.begins[5][0][1]) == (1, 0)
    assert (second.begins[5][0][4], second.begins[5][0][1]) == (2, 1)


def test_a_give_behind_the_take_does_not_count() -> None:
    """A second LOAD that waits for the first SYNC cannot have given what that SYNC takes."""
    norm = Norm(words=1, tokens=4, dim=1, signal=1)
    take = Sync(wait=1, wait_count=3, signal=2, count=1)
    late = load(signal=1, wait=2, wait_count=1)
    (_, _, found, *_), _ = order(
        steps(norm, load(signal=1), take, late, Sync(wait=1, wait_count=1))
    )
    assert (found.begins[5][0][4], found.begins[5][0][1]) == (2, 1)
    free = replace(late, wait=0, wait_count=0)  # one that does not wait may have
    take = replace(take, signal=0, count=0)
    (_, _, found, *_), _ = order(
        steps(norm, load(signal=1), take, free, Sync(wait=1, wait_count=1))
    )
    assert (found.begins[5][0][4], found.begins[5][0][1]) == (1, 1)


def test_counters_have_13_bits() -> None:
    sync = Sync(signal=1, count=4095)
    for count, expected in ((2, 0), (3, 1)):
        code = [*[sync] * count, *[Sync(wait=1, wait_count=4095)] * count]
        ledger = order(steps(*code))[1]
        assert isinstance(ledger, Ledger)
        found = list(ledger.finish())
        assert len(found) == expected
        assert all("may hold" in f.message for f in found)
    # each taken before the next is given
    code = [sync, Sync(wait=1, wait_count=4095, signal=2, count=1)]
    for _ in range(3):
        code += [load(wait=2, wait_count=1, signal=3), Sync(wait=3, wait_count=1)]
        code += [sync, Sync(wait=1, wait_count=4095, signal=2, count=1)]
    code += [load(wait=2, wait_count=1)]
    assert not list(order(steps(*code))[1].finish())


def test_numbers_that_depend_on_routing() -> None:
    """An expert's credits are taken by the same queue's GEMM, and by nothing else."""
    router = Gemm(depth=1, tokens=6, otiles=1, mode=Destination.GATE, experts=2, top_k=1, signal=1)
    wait = Sync(wait=1, wait_count=1)
    first = Gemm(depth=1, otiles=1, use_queue=1, queue=1, signal=2)
    second = replace(first, signal=0, wait=2)
    found, _ = order(steps(router, wait, first, second))
    assert len(found[3].begins[5]) == 3  # as many tiles as the router has tokens
    epilogue = found[2].at[7]
    for tile, clock in enumerate(found[3].begins[5]):
        assert clock[7] == epilogue + tile + 1
    # What follows the experts knows nothing of it: the queue may be empty.
    found, _ = order(steps(router, wait, first, second, Sync()))
    assert found[4].begins[5][0][7] <= epilogue
    for wrong in (
        replace(second, queue=0),
        Sync(wait=2, wait_count=3),
        replace(second, tokens=6, use_queue=0),
    ):
        with pytest.raises(Exception, match="queue has tiles"):
            order(steps(router, wait, first, wrong))


def test_no_wait_is_there_for_nothing(program: Program, fetching: Program) -> None:
    """Without any one of them a program is not proven."""
    for made in (program, fetching):
        code = made.instructions(TASK)
        for n, i in enumerate(code):
            if i.wait:
                broken = [*code[:n], replace(i, wait=0, wait_count=0), *code[n + 1 :]]
                assert not verify(with_code(made, TASK, broken)).proven, n
