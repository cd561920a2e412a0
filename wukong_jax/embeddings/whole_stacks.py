"""Routes ids to stacks whose tables are whole on a device, and reads their rows, with bags laid flat or padded."""

from collections.abc import Mapping

import jax

from wukong_jax.data.blocks.batch import BagShare
from wukong_jax.embeddings.flat_bags import BagRows, FlatBags, flatten_bags
from wukong_jax.embeddings.layout import EmbeddingLayout, FieldPlacement
from wukong_jax.embeddings.row_gather import compute_row_ids, gather_bags, gather_rows, take_slots


def find_bags(layout: EmbeddingLayout, stack: int) -> list[FieldPlacement]:
    """Returns the columns of a stack whose slots are pooled."""
    return [field for field in layout.fields_of_stack(stack) if field.pools]


def route_stacks(
    layout: EmbeddingLayout, share: BagShare, ids: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, FlatBags]]:
    """Converts the ids of one device to row ids, and lays its bags flat.

    Args:
      layout: the layout.
      share: share of the bags' slots that there are places for.
      ids: [B, S] int32, -1 = no id.

    Returns:
      By stack name, [B, slots of the other columns] int32 row ids; and the bags of stacks that have any.
    """
    row_ids, flat = {}, {}
    for index, stack in enumerate(layout.stacks):
        bags = find_bags(layout, index)
        others = [field for field in layout.fields_of_stack(index) if not field.pools]
        row_ids[stack.name] = compute_row_ids(layout, index, ids, others)
        if bags:
            bag_rows = compute_row_ids(layout, index, ids, bags)
            lengths = [field.length for field in bags]
            flat[stack.name] = flatten_bags(take_slots(ids, bags), bag_rows, lengths, share, stack.rows)
    return row_ids, flat


def gather_stacks(
    layout: EmbeddingLayout,
    tables: Mapping[str, jax.Array],
    row_ids: Mapping[str, jax.Array],
    flat: Mapping[str, FlatBags],
) -> dict[str, jax.Array | BagRows]:
    """Reads the rows of all stacks, and sums the bags that are laid flat; see `row_gather`."""
    gathered: dict[str, jax.Array | BagRows] = {}
    for index, stack in enumerate(layout.stacks):
        name = stack.name
        if name in flat:
            lengths = [field.length for field in find_bags(layout, index)]
            gathered[name] = gather_bags(tables[name], row_ids[name], flat[name], len(lengths), max(lengths))
        else:
            gathered[name] = gather_rows(tables[name], row_ids[name])
    return gathered
