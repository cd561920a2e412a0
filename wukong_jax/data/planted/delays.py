"""Draws planted delays between an impression and its conversion.

    delay = exponential with scale hours(domain) * exp(deviation * z(row)), truncated at the longest window

z is a linear function of the row's columns with mean 0 and unit variance (order 1 of `structures`), one for each
delayed objective. Labels of a shorter window are therefore not a random subset of the final ones, since some rows
convert faster. Because of the truncation, every conversion falls within the longest window, so the planted logit is
that of the final label, and P(converted within w) = sigmoid(true logit) * `share_within(w)` is known. These are our
own choices.
"""

from collections.abc import Sequence

import numpy as np

from wukong_jax.data.planted.structures import PlantedLogit


class PlantedDelays:
    """Draws the delays of the delayed objectives."""

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
        """Draws the function z of each delayed objective.

        Args:
          generator: random generator for all draws.
          probabilities: [values] probabilities of each field's values from 1.
          objectives: number of delayed objectives.
          fields: number of categorical fields.
          dense_fields: number of dense fields.
          hours: scale of the delay in each domain, in hours.
          deviation: standard deviation of the scale's logarithm.
          longest_window: the longest window, in seconds.
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
        """Computes the scale of each row's delays before truncation.

        Args:
          values: [B, fields] int32, at least 1.
          dense: [B, dense_fields] float32.
          domain: [B] int32.

        Returns:
          [B, delayed objectives] float64 seconds.
        """
        logs = np.stack([structure.parts(values, dense)[0] for structure in self.structures], axis=1)
        return self._seconds[domain][:, None] * np.exp(self._deviation * logs.astype(np.float64))

    def share_within(self, window: float, scales: np.ndarray) -> np.ndarray:
        """Returns P(delay <= window), with the shape of `scales`.

        Args:
          window: seconds, at most the longest window.
          scales: scales from the method `scales`.
        """
        return np.expm1(-window / scales) / np.expm1(-self.longest_window / scales)

    def draw(self, uniform: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Draws delays in whole seconds, by inverting `share_within`.

        Delays are rounded up. A rounded delay is within a window of whole seconds exactly if the original delay is.

        Args:
          uniform: uniform random numbers in [0, 1).
          scales: scales from the method `scales`, of the same shape.

        Returns:
          int64 seconds, at most the longest window.
        """
        delays = -scales * np.log1p(uniform * np.expm1(-self.longest_window / scales))
        return np.minimum(np.ceil(delays).astype(np.int64), self.longest_window)
