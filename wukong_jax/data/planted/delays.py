"""Planted delays: how long after its impression a positive comes.

    delay = exponential of scale hours(domain) * exp(deviation * z(row)), given that it ends before the longest window

z is a linear function of the row's columns of mean 0 and unit variance (order 1 of `planted_structures`), one for each
delayed objective. So a label of a shorter window is not a thinned copy of the final one: it prefers fast rows. The
condition means that no conversion is lost to the longest window, hence the planted logit is that of the final label,
and P(converted within w) = sigmoid(true logit) * `share_within(w)` is known. These are our own choices.
"""

from collections.abc import Sequence

import numpy as np

from wukong_jax.data.planted.structures import PlantedLogit


class PlantedDelays:
    """Delays of the objectives that have them."""

    def __init__(
        self,
        generator: np.random.Generator,
        probabilities: np.ndarray,
        *,
        objectives: int,
        fields: int,
        dense_fields: int,
        hours: Sequence[float],
        deviation: float,
        longest_window: int,
    ) -> None:
        """Draws what the scale depends on.

        Args:
          generator: of the draw.
          probabilities: of each field's values 1.., [values].
          objectives: delayed ones.
          fields: categorical fields of a row.
          dense_fields: dense ones.
          hours: scale in each domain.
          deviation: of the scale's logarithm.
          longest_window: seconds.
        """
        self.structures = [
            PlantedLogit(
                generator,
                probabilities,
                fields=fields,
                dense_fields=dense_fields,
                structure="factorized",
                orders=(1,),
                interactions=1,
                latent_width=1,
            )
            for _ in range(objectives)
        ]
        self._seconds = np.array(hours, np.float64) * 3600
        self._deviation = deviation
        self.longest_window = longest_window

    def scales(self, values: np.ndarray, dense: np.ndarray, domain: np.ndarray) -> np.ndarray:
        """The scale of each row's delays, before the condition.

        Args:
          values: [B, fields] int32, from 1.
          dense: [B, dense_fields] float32.
          domain: [B] int32.

        Returns:
          [B, delayed objectives] float64 seconds.
        """
        logs = np.stack([structure.parts(values, dense)[0] for structure in self.structures], axis=1)
        return self._seconds[domain][:, None] * np.exp(self._deviation * logs.astype(np.float64))

    def share_within(self, window: float, scales: np.ndarray) -> np.ndarray:
        """P(delay at most window), of the shape of `scales`.

        Args:
          window: seconds, at most the longest.
          scales: from `scales`.
        """
        return np.expm1(-window / scales) / np.expm1(-self.longest_window / scales)

    def draw(self, uniform: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The delays at which `share_within` reaches given numbers, in whole seconds.

        They are rounded up: an integer delay is at most a window of whole seconds where the exact one is.

        Args:
          uniform: numbers in [0, 1).
          scales: from `scales`, of the same shape.

        Returns:
          int64 seconds, at most the longest window.
        """
        delays = -scales * np.log1p(uniform * np.expm1(-self.longest_window / scales))
        return np.minimum(np.ceil(delays).astype(np.int64), self.longest_window)
