"""Widths of numbers that units hand to one another, as wide as the largest machine's."""

from __future__ import annotations

from skipopu.isa.spec import KVWRITE
from skipopu.machine.accepted import LARGEST_BUFFER, LARGEST_MAP
from skipopu.machine.limits import LARGEST_CONTEXT, LARGEST_GROUP, LARGEST_HEAD, LARGEST_VOCABULARY
from skipopu.records import ROUTER_RECORD

POSITION_BITS = 24  # of a token in its sequence, and how many were before it: up to the context
MAP_ROW_BITS = 24  # entry of the KV map where a layer's row begins; also behind the last layer's
TOKEN_BITS = 20  # token of an entry that attention visits, and how many there are: the context
PLACE_BITS = 20  # of an entry in its port's pool, and how many there are: one per entry of the KV map
GROUP_BITS = 10  # elements of a group: of weights, or a head
OFFSET_BITS = GROUP_BITS + 1  # element of a group, and how many it takes in whole words
ELEMENT_BITS = 20  # element of the buffer or of a slot in the activation memory; wider than both, so that overruns are seen
OUTPUT_BITS = 20  # row of a product's outputs: as many as the vocabulary

assert LARGEST_CONTEXT < 1 << TOKEN_BITS
assert TOKEN_BITS <= POSITION_BITS == KVWRITE.by_name["late"].width
assert {ROUTER_RECORD.by_name[name].width for name in ("window", "window_next")} == {POSITION_BITS}
assert LARGEST_MAP < 1 << PLACE_BITS
assert PLACE_BITS <= MAP_ROW_BITS
assert max(LARGEST_GROUP, LARGEST_HEAD) < 1 << GROUP_BITS
assert LARGEST_BUFFER < 1 << ELEMENT_BITS
assert LARGEST_VOCABULARY <= 1 << OUTPUT_BITS
