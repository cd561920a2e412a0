"""Provides the exchange of the semantic-preserving tower transform (SPTT, paper 3.1), which respects host boundaries.

Shapes are those of one rank, with `b = B / (H C)` rows of the batch. A rank sees the ids of `R = C H b` rows, ordered
by source chip and then by source host. The path of a vector, with the paper's steps in brackets:

    ids         [b, slots]  -> all-to-all over "host" among equal chips -> [H, b, slots]       (a, peer first)
                            -> all-gather or all-to-all over "chip"     -> [C, H, b, L]
    rows        [C, H, b, L, w] -> pooled [C, H, b, Q, w]                                      (b)
    in the host: all-to-all over "chip" (column-, table-wise), reduce-scatter (row-wise)       (d, e)
                -> [H, b, tokens of the host, D]
    towers      [T / H, H b, F_max, D] -> [T / H, H b, P_max, D_out]                           (the tower module, 3.2)
    peers       all-to-all over "host" -> [b, T, P_max, D_out]                                 (f)

Because ids are sent to peers first, they arrive in the order in which step (d) sends, so the paper's peer permute (c)
is not needed (and the key printed there would be wrong if C differs from H). Each chip of a host processes a share of
the batch for the host's towers. Tower weights are therefore equal on the chips of a host and differ between hosts, and
their gradients are summed only within the host.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dmt.tower_placement import place_towers
from dmt.towers import TowerLayout, check_hosts_divide
from wukong_jax.data.blocks.batch import BagShare, Batch
from wukong_jax.embeddings.exchange import BoundNetwork
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.message_dtype import add_in, send_in
from wukong_jax.embeddings.placed_exchange import (
    BY_RANK,
    ExchangeDtype,
    PlacedExchange,
    PlacedExchangeOptions,
    PlacedIds,
    Rows,
    concatenate_flat,
    exchange_over,
    split_flat,
)
from wukong_jax.embeddings.placement import Placement, build_placement
from wukong_jax.embeddings.placement_planner import check_allocated, count_allocated_bytes, read_budget
from wukong_jax.embeddings.rearrange import gather_vectors, invert_index, take_vectors
from wukong_jax.errors import UserError
from wukong_jax.sharding.axis_rules import AxisRules
from wukong_jax.sharding.mesh import CHIP, HOST, compute_rank
from wukong_jax.sharding.per_device import run_on_devices
from wukong_jax.strict_mapping import build_dataclass

BY_TOWER = PartitionSpec(HOST, CHIP)  # sharding of arrays [T, B, ...]
BY_CHIP = PartitionSpec(None, CHIP)  # the same as seen where only chips are told apart
TOWER_WEIGHTS: AxisRules = ((r"(^|/)towers/", PartitionSpec(HOST)),)


@dataclasses.dataclass(frozen=True)
class TowerExchangeOptions(PlacedExchangeOptions):
    """`config.exchange.options` of `dmt.tower_exchange:build`."""

    placement: Literal["auto", "table_wise", "column_wise", "row_wise"] = "auto"  # of all tables, each within its host


def build(options: Mapping[str, Any], layout: EmbeddingLayout, mesh: Mesh, model: Any) -> "TowerExchange":
    """Places the towers of a model on the hosts and builds the exchange.

    Args:
      options: keys of `TowerExchangeOptions`.
      layout: layout of the tables.
      mesh: mesh with axes ("host", "chip").
      model: a `dmt.model.TowerModel`.

    Raises:
      UserError: the model has no towers, the number of hosts does not divide that of towers, an option is rejected, or
        the tables do not fit.
    """
    chosen = build_dataclass(TowerExchangeOptions, options, "config.exchange.options")
    towers = getattr(model, "towers", None)
    if not isinstance(towers, TowerLayout):
        raise UserError(
            "config.exchange.factory = 'dmt.tower_exchange:build': needs a model with towers; set "
            "config.model.factory to 'dmt.model:build'"
        )
    check_hosts_divide(towers, mesh.shape[HOST])
    hosts, chips = mesh.shape[HOST], mesh.shape[CHIP]
    try:
        tables = place_towers(layout, towers, hosts, chips, chosen.placement, chosen.tables)
        placement = build_placement(layout, tables, mesh.size)
        allocated = count_allocated_bytes(layout, placement)
        check_allocated(allocated, read_budget(chosen.memory_gib))
    except UserError as error:
        raise UserError(f"config.exchange.options, {error}") from None
    return TowerExchange(layout, mesh, placement, towers, chosen.dtype, compresses=model.compresses)


class TowerExchange(PlacedExchange):
    """Keeps tables on the hosts of their towers; see the module, and `Exchange` for the interface."""

    def __init__(
        self,
        layout: EmbeddingLayout,
        mesh: Mesh,
        placement: Placement,
        towers: TowerLayout,
        dtype: ExchangeDtype = "float32",
        *,
        compresses: bool,
    ) -> None:
        """Plans the messages.

        Args:
          layout: layout of the tables.
          mesh: mesh with axes ("host", "chip").
          placement: placement of each table on the chips of its tower's host.
          towers: columns of each tower.
          dtype: dtype in which embeddings, tower outputs and their gradients are sent.
          compresses: whether tower modules are applied between the two exchanges; otherwise embeddings are sent between
            hosts unchanged.
        """
        super().__init__(layout, mesh, placement, dtype)
        self.towers, self.compresses = towers, compresses
        for table, placed in placement.tables.items():
            inside = placed.ranks in (1, self.chips) and placed.first_rank // self.chips == (
                (placed.first_rank + placed.ranks - 1) // self.chips
            )
            if placed.strategy == "replicated" or not inside:
                raise ValueError(f"table {table!r}: {placed} is not inside one host of {self.chips} chips")
        stacks = placement.stacks
        self._gathered = [stack.name for stack in stacks if stack.strategy != "table_wise" or self.chips == 1]
        self._dealt = [stack.name for stack in stacks if stack.strategy == "table_wise" and self.chips > 1]
        self._added = [stack.name for stack in stacks if stack.strategy == "row_wise" and self.chips > 1]
        self._host_vectors = {name: self._list_host_vectors(name) for name in self.lookups}
        if compresses:
            self._token_index, self._token_inverse = self._index_tokens()

    @property
    def parameter_rules(self) -> AxisRules:
        """Sharding rules that keep the weights of towers on their hosts."""
        return TOWER_WEIGHTS

    def describe(self) -> str:
        """Describes the towers of each host and the placement of their tables on its chips."""
        lines = []
        for index, columns in enumerate(self.towers.columns):
            host = index * self.hosts // self.towers.count
            lines.append(f"tower {index} on host {host}: {', '.join(columns)}")
        strategies = sorted({placed.strategy for placed in self.placement.tables.values()})
        padding = 1 - sum(self.towers.sizes) / (self.towers.count * self.towers.largest)
        between = "compressed by tower modules" if self.compresses else "unchanged"
        sent = (
            f"embeddings are sent between hosts {between}"
            if self.hosts > 1
            else "one host, so nothing is sent to others"
        )
        lines.append(
            f"tables within a host are {', '.join(strategies)}; {sent}; {padding:.0%} of the towers' tokens are padding"
        )
        return "\n".join(lines)

    def route_local(self, ids: jax.Array, share: BagShare | None = None) -> PlacedIds:
        """Sends ids to peers first, then within the host; see `PlacedExchange`."""
        hosts, chips, batch = self.hosts, self.chips, len(ids)
        extended = jnp.pad(ids, ((0, 0), (0, 1)), constant_values=-1)
        # Each host is sent the slots that all its chips read, then for each chip the slots that only this chip reads.
        by_rank = {name: lookups.slots.reshape(hosts, chips, -1) for name, lookups in self.lookups.items()}
        shared = [by_rank[name][:, 0] for name in self._gathered]
        own = [by_rank[name] for name in self._dealt]
        shared_slots = sum(slots.shape[1] for slots in shared)
        dealt_slots = sum(slots.shape[2] for slots in own)
        slots = np.concatenate(
            [*shared, *([np.concatenate(own, axis=2).reshape(hosts, -1)] if own else [])], axis=1
        )  # [H, slots]
        message = extended[:, slots.reshape(-1)].reshape(batch, *slots.shape).transpose(1, 0, 2)
        message = exchange_over(message, HOST)  # [H, b, slots]
        to_all, to_one = jax.lax.split(message, [shared_slots, chips * dealt_slots], axis=2)
        arrived: dict[str, jax.Array] = {}
        if self._gathered:
            everywhere = jax.lax.all_gather(to_all, CHIP)  # [C, H, b, slots]
            arrived |= self._split_slots(everywhere, self._gathered)
        if self._dealt:
            dealt = to_one.reshape(hosts, batch, chips, dealt_slots).transpose(2, 0, 1, 3)
            arrived |= self._split_slots(exchange_over(dealt, CHIP), self._dealt)
        rank = compute_rank(self.mesh)
        return {name: self.lookups[name].find_rows(rank, arrived[name], share) for name in self.lookups}

    def collect(self, rows: Rows, routed: PlacedIds) -> dict[str, jax.Array]:
        """Sends vectors to the devices of the batch without applying tower modules; see `Exchange`."""
        with jax.named_scope("collect"):
            return self.map_shards(self._collect_local, (BY_RANK, BY_RANK))(rows, routed)

    def run_network(self, network: BoundNetwork, rows: Rows, routed: PlacedIds, batch: Batch, *, train: bool) -> Any:
        """Runs tower modules on the towers' hosts, and the rest on the devices of the batch; see `Exchange`."""
        if not self.compresses:
            return super().run_network(network, rows, routed, batch, train=train)

        def call_compress(network: BoundNetwork, tokens: jax.Array) -> jax.Array:
            return network.model.compress(tokens)

        def compress(tokens: jax.Array) -> jax.Array:
            return run_on_devices(network, call_compress, (tokens,), (BY_CHIP,), BY_CHIP, kept=True)

        def finish(network: BoundNetwork, sent: jax.Array, batch: Batch) -> Any:
            return network.model.finish(sent, batch.dense, batch.domain, batch.extras, train=train)

        sent = self.send_towers(rows, routed, compress)
        return run_on_devices(network, finish, (sent, batch), (BY_RANK, BY_RANK), BY_RANK)

    def send_towers(self, rows: Rows, routed: PlacedIds, compress: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Applies tower modules on the towers' hosts and sends their outputs to the devices of the batch.

        Args:
          rows: result of `gather`.
          routed: result of `route_ids`.
          compress: tower modules, a function from [T, B, F_max, D] to [T, B, P_max, D_out].

        Returns:
          [B, T, P_max, D_out] float32.
        """
        with jax.named_scope("collect"):
            tokens = self.map_shards(self._collect_towers_local, (BY_RANK, BY_RANK), BY_TOWER)(rows, routed)
        with jax.named_scope("towers"):
            compressed = compress(tokens)
        with jax.named_scope("peer_exchange"):
            return self.map_shards(self._exchange_peers_local, BY_TOWER)(compressed)

    def _split_slots(self, message: jax.Array, names: list[str]) -> dict[str, jax.Array]:
        """Splits [C, H, b, slots] into [R, L] for each stack."""
        message = message.reshape(-1, message.shape[-1])
        pieces = jax.lax.split(message, [self.lookups[name].slots_per_rank for name in names], axis=1)
        return dict(zip(names, pieces, strict=True))

    def _meet_in_host(self, rows: Rows, routed: PlacedIds) -> dict[str, jax.Array]:
        """Does steps (b), (d) and (e): collects this host's vectors, for this chip's share of every host's rows.

        Returns:
          [H, b, vectors of the host, w of the table] by name of the placed stack, in the order of `_host_vectors`.
        """
        chips, hosts = self.chips, self.hosts
        pooled = {name: self.lookups[name].pool(rows[name], routed[name]) for name in self.lookups}
        parts = {
            name: values.reshape(chips, -1, *values.shape[1:]) for name, values in pooled.items()
        }  # [C, H b, Q, w]
        met: dict[str, jax.Array] = {}
        sent = {name: part for name, part in parts.items() if name not in self._added}
        if sent and chips > 1:
            message = send_in(self.dtype, functools.partial(exchange_over, axis_name=CHIP))(concatenate_flat(sent))
            sent = split_flat(message, {name: (part.shape[2], part.shape[3]) for name, part in sent.items()})
        for name, part in sent.items():  # [C of the owner, H b, Q, w]: joins columns, or vectors, of all owners
            by_columns = self.lookups[name].stack.strategy == "column_wise"
            order = (1, 2, 0, 3) if by_columns else (1, 0, 2, 3)
            met[name] = part.transpose(order).reshape(part.shape[1], -1, self._table_width(name))
        for name in self._added:
            scatter = functools.partial(jax.lax.psum_scatter, axis_name=CHIP, scatter_dimension=0)
            met[name] = add_in(self.dtype, scatter)(parts[name])
        return {name: met[name].reshape(hosts, -1, *met[name].shape[1:]) for name in self.lookups}

    def _collect_local(self, rows: Rows, routed: PlacedIds) -> dict[str, jax.Array]:
        """Collects the vectors of every layout stack, [b, vectors, w] each, in the schema's order."""
        met = self._meet_in_host(rows, routed)
        send = send_in(self.dtype, functools.partial(exchange_over, axis_name=HOST))
        message = send(concatenate_flat(met)) if self.hosts > 1 else concatenate_flat(met)
        back = split_flat(message, {name: (part.shape[2], part.shape[3]) for name, part in met.items()})
        collected = {}
        for index, stack in enumerate(self.layout.stacks):
            own = [name for name, lookups in self.lookups.items() if lookups.stack.source == index]
            vectors = [back[name].transpose(1, 0, 2, 3).reshape(back[name].shape[1], -1, stack.width) for name in own]
            positions = np.concatenate([self._host_vectors[name].reshape(-1) for name in own])
            joined = vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors, axis=1)
            collected[stack.name] = take_vectors(joined, invert_index(positions, stack.vectors))
        return collected

    def _collect_towers_local(self, rows: Rows, routed: PlacedIds) -> jax.Array:
        """Collects [T / H, H b, F_max, D] tokens of this host's towers, for this chip's share of every host's rows."""
        met = self._meet_in_host(rows, routed)
        width = self.layout.width
        tokens = jnp.concatenate([part.reshape(*part.shape[:2], -1, width) for part in met.values()], axis=2)
        if all(np.array_equal(own, np.arange(tokens.shape[2])) for own in self._token_index):
            picked = tokens
        else:
            host = jax.lax.axis_index(HOST)
            picked = gather_vectors(
                tokens, jnp.asarray(self._token_index)[host], jnp.asarray(self._token_inverse)[host]
            )
        hosts, batch = picked.shape[:2]
        towers = picked.reshape(hosts, batch, self.towers.count // hosts, self.towers.largest, width)
        return towers.transpose(2, 0, 1, 3, 4).reshape(towers.shape[2], hosts * batch, self.towers.largest, width)

    def _exchange_peers_local(self, made: jax.Array) -> jax.Array:
        """Does step (f): sends [T / H, H b, P_max, D_out] between hosts and returns [b, T, P_max, D_out]."""
        per_host, rows, vectors, width = made.shape
        batch = rows // self.hosts
        by_host = made.reshape(per_host, self.hosts, batch, vectors, width).transpose(1, 2, 0, 3, 4)
        if self.hosts > 1:
            by_host = send_in(self.dtype, functools.partial(exchange_over, axis_name=HOST))(by_host)
        return by_host.transpose(1, 0, 2, 3, 4).reshape(batch, self.hosts * per_host, vectors, width)

    def _table_width(self, name: str) -> int:
        return self.lookups[name].stack.table_width

    def _list_host_vectors(self, name: str) -> np.ndarray:
        """Lists a stack's vectors on each host after step (d): [H, vectors] positions in the layout stack, or -1."""
        by_chip = self.lookups[name].vectors.reshape(self.hosts, self.chips, -1)
        return by_chip.reshape(self.hosts, -1) if self.lookups[name].stack.strategy == "table_wise" else by_chip[:, 0]

    def _index_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the index from each host's padded tower tokens to the tokens collected there, and its inverse."""
        held: list[list[int]] = []  # for each host, the token at every place, -1 for padding
        for host in range(self.hosts):
            places: list[int] = []
            for name, vectors in self._host_vectors.items():
                tokens = self._tokens_of_stack(name)
                count = self._table_width(name) // self.layout.width
                for vector in vectors[host]:
                    places += [-1] * count if vector < 0 else tokens[vector]
            held.append(places)
        padded = self.towers.padded_tokens(-1).reshape(self.hosts, -1)
        index = np.full(padded.shape, -1, np.int32)
        for host, tokens_there in enumerate(held):
            where = {token: place for place, token in enumerate(tokens_there) if token >= 0}
            index[host] = [where.get(token, -1) for token in padded[host].tolist()]
        inverse = np.stack([invert_index(own, len(held[0])) for own in index])
        return index, inverse

    def _tokens_of_stack(self, name: str) -> list[list[int]]:
        """Lists the tokens of each vector of the layout stack, in the order of its vectors."""
        tokens: list[list[int]] = []
        for field in self.layout.fields_of_stack(self.lookups[name].stack.source):
            first = field.tokens[0]
            for vector in range(field.vectors):
                start = first + vector * field.count
                tokens.append(list(range(start, start + field.count)))
        return tokens
