"""Collectives read from HLO text: kinds, bytes, and loops that run them again."""

import pytest

from revision_jax.parallel.collectives import Collective, read_collectives, summarise

HLO = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, f32[] parameter(1))
}

%body (p: (s32[], bf16[2,8])) -> (s32[], bf16[2,8]) {
  %w = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(bf16[2,8]{1,0} %x), dimensions={0}
  %s = (bf16[2,8]{1,0}, bf16[8,8]{1,0}) all-gather-start(bf16[2,8]{1,0} %x), dimensions={0}
  %d = bf16[8,8]{1,0} all-gather-done(%s)
}

%cond (p: (s32[], bf16[2,8])) -> pred[] {
  %c = pred[] compare(%i, %n)
}

ENTRY %main (x: bf16[2,8]) -> f32[4] {
  %loop = (s32[], bf16[2,8]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"32"}}
  %r = f32[4]{0} all-reduce(f32[4]{0} %g), to_apply=%add
  ROOT %p = (f32[4]{0}, f32[2]{0}) all-reduce(%g, %h), to_apply=%add
}
"""


def test_loops_count_as_often_as_they_run():
    found = read_collectives(HLO)
    assert sorted((one.kind, one.bytes, one.times) for one in found) == [
        ("all-gather", 128.0, 32),
        ("all-gather", 128.0, 32),
        ("all-reduce", 16.0, 1),
        ("all-reduce", 24.0, 1),
    ]


def test_a_loop_may_say_how_often_it_runs_by_its_condition():
    condition = """%cond (p: (s32[], bf16[2,8])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %c = pred[]{:T(512)} compare(%i, %limit.1), direction=LT, metadata={op_name="cond/lt"}
}"""
    start, end = HLO.index("%cond"), HLO.index("ENTRY")
    text = HLO[:start] + condition + "\n\n" + HLO[end:].replace(', backend_config={"known_trip_count":{"n":"32"}}', "")
    assert sorted(one.times for one in read_collectives(text)) == [1, 1, 5, 5]
    unknown = text.replace("direction=LT", "direction=NE")
    assert {one.times for one in read_collectives(unknown)} == {1}


def test_parts_of_one_operation_count_once():
    part = "%w = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(bf16[2,8]{1,0} %x), "
    text = HLO.replace(part, part + "channel_id=4, ")
    two = text.replace(
        "  %s = ", f"  {part}channel_id=4, dimensions={{0}}\n  {part}channel_id=5, dimensions={{0}}\n  %s = "
    )
    assert len(read_collectives(text)) == len(read_collectives(HLO)) == 4
    assert len(read_collectives(two)) == 5


def test_summary_by_kind():
    rows = summarise([Collective("all-gather", 8.0, 3), Collective("all-gather", 4.0, 1)])
    assert rows == {"all-gather": {"count": 4, "bytes": 28.0, "largest": 8.0}}


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        read_collectives("module @jit_step {}")
