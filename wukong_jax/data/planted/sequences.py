"""Computes the sequence part of a planted logit: the match of a row's item with the items of its history.

    part = scale * sum over positions l of weight_l * <a(category of the item), b(category of history item l)>

a and b are latent coordinates, centred under the distribution of categories. The latest item, at the last position,
has the largest weight; each earlier item has `decay` times the weight of the next. Histories are drawn independently
for each row and independently of the user, so rows are independent and any range of rows can be generated alone. The
part has mean 0 given the item alone or the history alone, and exactly unit variance. It is therefore uncorrelated with
any function of the other columns, and a model that ignores the history loses the part's whole share. These are our own
choices.
"""

import numpy as np

from wukong_jax.data.planted.structures import PlantedLogit


def draw_match(generator: np.random.Generator, probabilities: np.ndarray, latent_width: int) -> PlantedLogit:
    """Draws the coordinates a and b as one interaction of two fields, the categories of the item and a history item."""
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
    """Returns the weights of a history's positions, [length] float64, ascending, with sum of squares 1."""
    weights = decay ** np.arange(length - 1, -1, -1, dtype=np.float64)
    return weights / np.sqrt((weights**2).sum())


def compute_match_part(
    match: PlantedLogit, weights: np.ndarray, category: np.ndarray, history: np.ndarray
) -> np.ndarray:
    """Computes the sequence part, of unit variance.

    Args:
      match: coordinates from `draw_match`.
      weights: [L] weights from `position_weights`.
      category: [B] int32, category of each row's item, at least 1.
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
    # Column by column, so that the order of addition is the same for any number of rows.
    total = past[:, 0].copy()
    for column in range(1, past.shape[1]):
        total += past[:, column]
    return total * np.float32(match.scales[2])
