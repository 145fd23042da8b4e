"""Reading collective operations from the text of compiled programs: excerpts of real ones."""

from jax_prompt.runs.collectives import Collective, collectives

# A loop of CPU, which tells its turns; a reduction of two arrays outside it, started and awaited.
_CPU = """HloModule jit_step, num_partitions=8

%region_1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%body (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %gather = bf16[1,64,192]{2,1,0} all-gather(%w), channel_id=1, replica_groups=[2,4]<=[8], \
dimensions={2}
  ROOT %t = (s32[], f32[64]) tuple(%i, %x)
}

%cond (p: (s32[], f32[64])) -> pred[] {
  %c = s32[] constant(3)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}

ENTRY %main (p: f32[64]) -> f32[64] {
  %w = (s32[], f32[64]) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"11"}}
  %start = (f32[10,4]{1,0}, f32[]) all-reduce-start(%a, %b), replica_groups={{0,1},{2,3}}, \
to_apply=%region_1
  %done = (f32[10,4]{1,0}, f32[]) all-reduce-done(%start)
  %g = (f32[8]{0}, f32[64]{0}) all-gather-start(%x), replica_groups={}, dimensions={0}
  ROOT %gd = f32[64]{0} all-gather-done(%g)
}
"""

# Of a TPU: turns are the condition's constant, groups are axes of a mesh, and one gather is spread
# over two fusions.
_TPU = """HloModule jit_step

%start (p: bf16[1,128,128]) -> bf16[1,128,512] {
  %all-gather.67 = bf16[1,128,512]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=9, \
replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_1'}, \
dimensions={2}, frontend_attributes={chain_id="2"}
}

%done (p: bf16[1,128,128]) -> bf16[1,128,512] {
  %all-gather.69 = bf16[1,128,512]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=9, \
replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_1'}, \
dimensions={2}, frontend_attributes={chain_id="2"}
}

%cond (p: (s32[])) -> pred[] {
  %constant.480 = s32[]{:T(128)} constant(5)
  ROOT %lt.55 = pred[]{:T(512)} compare(%i, %constant.480), direction=LT
}

%body (p: (s32[])) -> (s32[]) {
  %f = bf16[1] fusion(%p), kind=kCustom, calls=%start
  %g = bf16[1] fusion(%f), kind=kCustom, calls=%done
}

%unused (p: f32[]) -> f32[] {
  %r = f32[] all-reduce(%p), channel_id=3, replica_groups={}, to_apply=%sum
}

ENTRY %main.1_spmd (p: s32[]) -> s32[] {
  %while.71 = (s32[]{:T(128)}) while(%t), condition=%cond, body=%body
}
"""


def test_loops_count_each_turn_and_started_operations_once():
    assert collectives(_CPU) == [
        Collective('all-gather', 2 * 64 * 192, 4, 11),
        Collective('all-reduce', 4 * 40 + 4, 2, 1),
        Collective('all-gather', 4 * 64, 0, 1),
    ]


def test_an_operation_that_is_spread_counts_once():
    assert collectives(_TPU) == [Collective('all-gather', 2 * 128 * 512, 4, 5)]


def test_bytes_follow_from_rings():
    assert Collective('all-reduce', 800, 0, 3).sent(8) == 3 * 1400
    assert Collective('reduce-scatter', 100, 4, 1).sent(8) == 300
    assert Collective('collective-permute', 100, 4, 2).sent(8) == 200
