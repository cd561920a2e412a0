"""Tests that every printed form of a collective is parsed, and that errors name the line."""

import textwrap

import numpy as np
import pytest

from wukong_jax.sharding.traffic.hlo_collectives import find_collectives
from wukong_jax.sharding.traffic.hlo_text import ArrayShape, parse_arrays, parse_instruction
from wukong_jax.sharding.traffic.replica_groups import parse_replica_groups, parse_slice_target


def make_module(body: str, before: str = "", ranks: int = 8) -> str:
    entry = f"ENTRY %main (p: f32[8,16]) -> f32[8,16] {{\n{textwrap.indent(textwrap.dedent(body), '  ')}\n}}\n"
    return f"HloModule made_up, num_partitions={ranks}\n\n{textwrap.dedent(before)}\n{entry}"


PARAMETER = "%p = f32[8,16]{1,0:T(8,128)S(1)} parameter(0)\n"


def read_one(line: str, before: str = "", ranks: int = 8):
    (found,) = find_collectives(make_module(PARAMETER + line, before, ranks), 2, 4)
    return found


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,16]{1,0}", 512),
        ("bf16[3,5]{1,0:T(8,128)(2,1)S(1)}", 30),
        ("u16[7]", 14),
        ("s32[]", 4),
        ("pred[9]{0}", 9),
        ("f8e4m3fn[10]", 10),
        ("s4[3]", 2),
        ("c64[2]", 16),
    ],
)
def test_bytes_of_an_array(shape, size):
    (array,) = parse_arrays(shape)
    assert array.bytes == size


def test_shape_of_unknown_size_is_refused():
    with pytest.raises(ValueError, match="run time"):
        parse_arrays("f32[<=8]{0}")


def test_instruction_with_tuples_layouts_comments_and_quotes_is_cut_at_the_right_places():
    line = (
        "ROOT %a.1 = (f32[1,16]{1,0:T(8,128)S(1)}, /*index=1*/(u32[], token[])) custom-call(%b, f32[2]{0} %c.2), "
        'custom_call_target="x(,{", metadata={op_name="jit(f)/a, b(c)/d"}'
    )
    instruction = parse_instruction(line)
    assert instruction.name == "a.1"
    assert instruction.opcode == "custom-call"
    assert instruction.operand_names == ("b", "c.2")
    assert instruction.op_name == "jit(f)/a, b(c)/d"
    assert instruction.attribute("custom_call_target") == '"x(,{"'


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups={{3,1},{2,0}}", [[3, 1], [2, 0]]),
        ("replica_groups={}", [list(range(8))]),
        ("dimensions={0}", [list(range(8))]),
        ("replica_groups=[2,4]<=[8], channel_id=1", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("replica_groups=mesh['host'=2,'chip'=4] {'chip'}, to_apply=%add", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=mesh['host'=2,'chip'=4] {'host'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh[host=2,chip=4] {host,chip}", [list(range(8))]),
        ("replica_groups=mesh['host'=2,'chip'=4] {'chip','host'}", [[0, 4, 1, 5, 2, 6, 3, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(1)2,'a':(4)2}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([[0,2],[1,3]]) {'b'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
    ],
)
def test_replica_groups_in_every_printed_form(text, groups):
    assert [list(group) for group in parse_replica_groups(text, 8)] == groups


@pytest.mark.parametrize("text", ["replica_groups=<0,1>", "replica_groups={{0,9}}"])
def test_replica_groups_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match=r"cannot read|outside"):
        parse_replica_groups(text, 8)


def test_slice_targets_count_slices_from_one():
    lists = parse_slice_target("{{100000,200000},{100003,200003}},_xla", 4)
    assert lists == ((0, 4), (3, 7))
    assert parse_slice_target('"{1,3}x{0:1}"', 4) == ((0, 8), (1, 9))
    with pytest.raises(ValueError, match="between slices"):
        parse_slice_target("[1]", 4)


def test_all_to_all_in_tuple_form_is_one_array_of_all_its_pieces():
    found = read_one(
        "%x = (f32[8,16]{1,0}, f32[8,16]{1,0}) all-to-all(%p, %p), channel_id=1, "
        "replica_groups={{0,4},{1,5},{2,6},{3,7}}"
    )
    assert (found.kind, found.arrays) == ("all-to-all", (ArrayShape("f32", 256),))


def test_all_to_all_in_array_form_keeps_its_array():
    found = read_one("%x = f32[8,16]{1,0} all-to-all(%p), replica_groups=[2,4]<=[8], dimensions={0}")
    assert found.arrays == (ArrayShape("f32", 128),)
    assert found.groups == ((0, 1, 2, 3), (4, 5, 6, 7))


@pytest.mark.parametrize(
    ("start", "done"),
    [
        ("(f32[8,16]{1,0}, f32[32,16]{1,0}) all-gather-start(%p), dimensions={0}", "f32[32,16] all-gather-done(%s)"),
        ("f32[8,16]{1,0} all-reduce-start(f32[8,16]{1,0} %p), to_apply=%add", "f32[8,16] all-reduce-done(%s)"),
        ("((f32[8,16]), f32[2,16]) reduce-scatter-start(%p), dimensions={0}", "f32[2,16] reduce-scatter-done(%s)"),
        ("((f32[8,16]), f32[8,16]) all-to-all-start(%p), dimensions={0}", "f32[8,16] all-to-all-done(%s)"),
    ],
)
def test_asynchronous_collectives_count_once_with_what_goes_in(start, done):
    found = read_one(f"%s = {start}, replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}\nROOT %d = {done}")
    assert found.kind in start
    assert found.arrays == (ArrayShape("f32", 128),)


def test_async_start_counts_the_computation_it_wraps_once():
    wrapped = """
    %wrapped (q: f32[8,16]) -> f32[2,16] {
      %q = f32[8,16]{1,0} parameter(0)
      ROOT %rs = f32[2,16]{1,0} reduce-scatter(%q), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
    }
    """
    found = read_one(
        "%s = ((f32[8,16]), f32[2,16], u32[]) async-start(%p), calls=%wrapped\n"
        "%u = ((f32[8,16]), f32[2,16], u32[]) async-update(%s), calls=%wrapped\n"
        "ROOT %d = f32[2,16] async-done(%u), calls=%wrapped",
        wrapped,
    )
    assert (found.kind, found.times) == ("reduce-scatter", 1)


def test_merged_all_reduce_keeps_each_operands_own_name():
    found = read_one(
        "%x = (f32[8,16], bf16[4]) all-reduce(%p, bf16[4]{0} %q), replica_groups={}, to_apply=%add, "
        'metadata={op_name="jit(f)/(jvp()/a:transpose(jvp())/b)"}\n'
        '%g.1 = bf16[4] get-tuple-element(%x), index=1, metadata={op_name="jit(f)/transpose(jvp())/b"}\n'
        "%g.0 = f32[8,16] get-tuple-element(%x), index=0"
    )
    assert found.arrays == (ArrayShape("f32", 128), ArrayShape("bf16", 4))
    assert [names[0] for names in found.op_names] == ["jit(f)/jvp()/a", "jit(f)/transpose(jvp())/b"]


def test_name_is_taken_from_the_producer_where_the_collective_has_none():
    found = read_one(
        '%m = f32[8,16] negate(%p), metadata={op_name="jit(f)/collect/neg"}\n%b = f32[128] bitcast(%m)\n'
        "ROOT %x = f32[128] all-to-all(%b), replica_groups={}, dimensions={0}"
    )
    assert found.op_names == (("jit(f)/collect/neg",),)


def test_permute_pairs_and_the_slice_of_an_in_place_permute():
    found = read_one("%x = f32[8,16] collective-permute(%p), channel_id=1, source_target_pairs={{0,1},{1,2},{3,3}}")
    assert found.groups == ((0, 1), (1, 2), (3, 3))
    found = read_one(
        "%o = (s32[]) tuple(%c)\n"
        "%x = f32[8,16] collective-permute(%p, %p, %o, %o), source_target_pairs={{0,4}}, slice_sizes={{2,16}}"
    )
    assert found.arrays == (ArrayShape("f32", 32),)


BODY = """
%cond (s: (s32[], f32[8,16])) -> pred[] {
  %s.c = (s32[], f32[8,16]) parameter(0)
  %n = s32[] constant(6)
  %i.c = s32[] get-tuple-element(%s.c), index=0
  ROOT %lt = pred[] compare(%i.c, %n), direction=LT
}

%body (s: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %s = (s32[], f32[8,16]) parameter(0)
  %one = s32[] constant(1)
  %i = s32[] get-tuple-element(%s), index=0
  %v = f32[8,16] get-tuple-element(%s), index=1
  %r = f32[8,16] all-reduce(%v), replica_groups={}, to_apply=%add
  %i.1 = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[8,16]) tuple(%i.1, %r)
}
"""
LOOP = "%zero = s32[] constant(START)\n%t0 = (s32[], f32[8,16]) tuple(%zero, %p)\n%w = (s32[], f32[8,16]) while(%t0)"


@pytest.mark.parametrize(
    ("attributes", "times"), [('backend_config={"known_trip_count":{"n":"5"}}', 5), ("metadata={}", 6)]
)
def test_loop_multiplies_by_the_noted_or_the_counted_trips(attributes, times):
    found = read_one(f"{LOOP.replace('START', '0')}, condition=%cond, body=%body, {attributes}", BODY)
    assert found.times == times


@pytest.mark.parametrize(
    ("loop", "body"),
    [
        (LOOP.replace("START", "2"), BODY),
        (LOOP.replace("START", "0"), BODY.replace("direction=LT", "direction=NE")),
        (LOOP.replace("START", "0"), BODY.replace("%one = s32[] constant(1)", "%one = s32[] constant(2)")),
    ],
)
def test_loop_of_unknown_length_that_communicates_is_refused(loop, body):
    with pytest.raises(ValueError, match="no trip count"):
        read_one(f"{loop}, condition=%cond, body=%body", body)


def test_conditional_counts_its_dearest_branch():
    branches = """
    %none (q: f32[8,16]) -> f32[8,16] {
      ROOT %q = f32[8,16]{1,0} parameter(0)
    }

    %some (q: f32[8,16]) -> f32[8,16] {
      %q = f32[8,16]{1,0} parameter(0)
      ROOT %x = f32[8,16]{1,0} all-reduce(%q), replica_groups={}, to_apply=%add
    }
    """
    line = "ROOT %c = f32[8,16] conditional(%k, %p, %p, %p), branch_computations={%none, %some, %some}"
    assert read_one(line, branches).kind == "all-reduce"


def test_slice_program_of_tpu_repeats_in_each_slice_and_reads_sends_between_slices():
    text = make_module(
        PARAMETER
        + """
        %token = token[] after-all()
        %ag = f32[32,16] all-gather(%p), replica_groups={{0,1,2,3}}, dimensions={0}
        %s = (f32[8,16], u32[], token[]) send(%p, %token), channel_id=2, is_host_transfer=true, frontend_attributes={\
_xla_megascale_target={{100000,200000},{100001,200001}},_xla_megascale_transfer_type="ALL_TO_ALL"}
        %r = (f32[8,16], u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true
        %sd = token[] send-done(%s)
        """,
        ranks=4,
    )
    gather, send = find_collectives(text, 2, 4)
    assert gather.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert (send.kind, send.groups) == ("all-to-all", ((0, 4), (1, 5)))
    assert send.arrays == (ArrayShape("f32", 128),)


def test_collective_that_tpu_spreads_over_fusions_counts_once():
    parts = "".join(
        f"""
        %part.{i} (q: f32[8,16]) -> f32[32,16] {{
          %q = f32[8,16] parameter(0)
          ROOT %x = f32[32,16] all-gather(%q), replica_groups=[2,4]<=[8], dimensions={{0}}, \
frontend_attributes={{chain_id="0"}}
        }}
        """
        for i in range(3)
    )
    lines = "\n".join(f"%f.{i} = f32[32,16] fusion(%p), kind=kCustom, calls=%part.{i}" for i in range(3))
    assert read_one(lines, parts).kind == "all-gather"


def test_groups_of_one_rank_move_nothing():
    text = make_module(
        PARAMETER + f"%x = f32[8,16] all-reduce(%p), replica_groups={{{','.join(f'{{{r}}}' for r in range(8))}}}"
    )
    assert find_collectives(text, 2, 4) == ()


@pytest.mark.parametrize(
    "line",
    [
        "%x = f32[8,16] collective-reduce(%p), replica_groups={{0,1}}",
        "%x = f32[8,16] ragged-all-to-all(%p, %p, %a, %b, %c, %d), replica_groups={{0,1}}",
        "%x = f32[8,16] all-reduce(%p), replica_groups=?",
        "%x = f32[8,16] all-reduce(%nowhere), replica_groups={}",
        "%x = (f32[8,16], u32[], token[]) send(%p, %t), channel_id=2",
    ],
)
def test_collective_that_cannot_be_read_is_refused_with_its_line(line):
    with pytest.raises(ValueError, match=r"%x = "):
        read_one(line)


def test_program_of_other_devices_is_refused():
    with pytest.raises(ValueError, match=r"6 devices .* 2 hosts x 4 chips"):
        find_collectives(make_module(PARAMETER, ranks=6), 2, 4)
    with pytest.raises(ValueError, match="ENTRY"):
        find_collectives("HloModule empty", 1, 1)


def test_iota_groups_equal_numpy():
    groups = parse_replica_groups("replica_groups=[6,4]<=[2,3,4]T(2,0,1)", 24)
    expected = [[4 * ((4 * i + j) % 6) + (4 * i + j) // 6 for j in range(4)] for i in range(6)]
    np.testing.assert_array_equal(groups, expected)
