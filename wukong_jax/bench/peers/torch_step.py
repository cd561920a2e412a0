"""PyTorch's train step: FBGEMM's tables with fused row-wise AdaGrad, the twin of a network, and fused Adam."""

from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.nn import functional

from wukong_jax.bench.peers.twins import TWINS
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.tables import export_tables
from wukong_jax.training.run import Run
from wukong_jax.training.state import TrainState


class TorchBatch(NamedTuple):
    """A batch in the form that FBGEMM and the twins read."""

    dense: Tensor  # [B, F_dense] float32
    indices: Tensor  # [F * B] int64, ids column by column
    offsets: Tensor  # [F * B + 1] int64, first index of each bag
    domain: Tensor  # [B] int64
    labels: Tensor  # [B, O] float32


def to_torch_batch(batch: Batch) -> TorchBatch:
    """Converts a batch whose columns have one id each."""
    indices = torch.tensor(np.ascontiguousarray(batch.ids.T).reshape(-1), dtype=torch.int64)
    offsets = torch.arange(len(indices) + 1)
    dense, labels = torch.tensor(batch.dense), torch.tensor(batch.labels)
    return TorchBatch(dense, indices, offsets, torch.tensor(batch.domain, dtype=torch.int64), labels)


def build_tables(run: Run, state: TrainState) -> SplitTableBatchedEmbeddingBagsCodegen:
    """Builds FBGEMM's tables with the rows of ours."""
    logical = export_tables(run.layout, state.tables)
    optimizer = run.layout.stacks[0].optimizer
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(field.rows, run.layout.width, EmbeddingLocation.HOST, ComputeDevice.CPU) for field in run.layout.fields],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=optimizer.learning_rate,
        eps=optimizer.epsilon,
        pooling_mode=PoolingMode.SUM,
        device=torch.device("cpu"),
    )
    for weights, field in zip(tables.split_embedding_weights(), run.layout.fields, strict=True):
        weights.copy_(torch.tensor(logical[field.table]["rows"]))
    return tables


class TorchStep:
    """One train step in PyTorch, eager or compiled."""

    def __init__(self, run: Run, state: TrainState, *, compiled: bool) -> None:
        """Copies weights and tables of a state.

        Args:
          run: our run.
          state: its state before the first step.
          compiled: whether `torch.compile` compiles network and loss.
        """
        params = jax.tree.map(np.asarray, state.params)["model"]
        self.network: nn.Module = TWINS[run.config.model.factory](params, run.network.model.options, run.shape)
        self.tables, self.width = build_tables(run, state), run.layout.width
        optimizer: Any = dict(run.config.optimizer.options)
        betas = optimizer.get("beta1", 0.9), optimizer.get("beta2", 0.999)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            run.config.optimizer.learning_rate,
            betas,
            optimizer.get("epsilon", 1e-8),
            fused=True,
        )
        self.loss = torch.compile(self._compute_loss) if compiled else self._compute_loss

    def _compute_loss(self, dense: Tensor, embeddings: Tensor, domain: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self.network(dense, embeddings, domain), labels)

    def __call__(self, batch: TorchBatch) -> Tensor:
        """Trains one step; returns the mean log loss before it, []."""
        pooled = self.tables(batch.indices, batch.offsets)
        embeddings = pooled.view(len(batch.dense), -1, self.width)
        loss = self.loss(batch.dense, embeddings, batch.domain, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
