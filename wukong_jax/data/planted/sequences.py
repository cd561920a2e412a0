"""The sequence's part of a planted logit: how well the row's item matches the items of its history.

    part = scale * sum over positions l of weight_l * <a(category of the item), b(category of history item l)>

a and b are latent coordinates, centred under the categories' distribution. The latest item, at the last position, has
the largest weight; each one before it has `decay` times that of the next. Histories are drawn independently for each
row, and of its user: rows stay independent, any range of them can be made alone, and the part has mean 0
given the item alone, or given the history alone. It is thus uncorrelated with all that can be had without the history,
of unit variance exactly, and a model that ignores the history loses the whole share. These are our own choices.
"""

import numpy as np

from wukong_jax.data.planted.structures import PlantedLogit


def draw_match(generator: np.random.Generator, probabilities: np.ndarray, latent_width: int) -> PlantedLogit:
    """The coordinates a and b, as one interaction of two fields: the item's category, and a history item's."""
    return PlantedLogit(
        generator,
        probabilities,
        fields=2,
        dense_fields=0,
        structure="factorized",
        orders=(2,),
        interactions=1,
        latent_width=latent_width,
    )


def position_weights(length: int, decay: float) -> np.ndarray:
    """Weights of a history's positions, [length] float64, ascending, of squares' sum 1."""
    weights = decay ** np.arange(length - 1, -1, -1, dtype=np.float64)
    return weights / np.sqrt((weights**2).sum())


def compute_match_part(
    match: PlantedLogit, weights: np.ndarray, category: np.ndarray, history: np.ndarray
) -> np.ndarray:
    """The part, of unit variance.

    Args:
      match: from `draw_match`.
      weights: [L] from `position_weights`.
      category: [B] int32, of the row's item, from 1.
      history: [B, L] int32 categories, latest last.

    Returns:
      [B] float32.
    """
    (term,) = match.terms[2]
    of_item, of_history = (match.tables[table] for table in term.tables)
    past = np.zeros((len(category), of_history.shape[1]), np.float32)
    for position, weight in enumerate(weights):
        past += np.float32(weight) * np.take(of_history, history[:, position], axis=0)
    past *= np.take(of_item, category, axis=0)
    # One column after the other: the order of addition is then the same for any number of rows.
    total = past[:, 0].copy()
    for column in range(1, past.shape[1]):
        total += past[:, column]
    return total * np.float32(match.scales[2])
