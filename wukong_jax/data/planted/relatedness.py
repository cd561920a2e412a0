"""Builds the true logits of portfolios, (domain, objective) pairs, with chosen correlations.

    logit(g, o) = deviation * sum over components c of  a[g, i(c)] * b[o, j(c)] * component_c

The components are uncorrelated. There are components for all portfolios, for one objective in all domains, for one
domain, and for one portfolio. With relatedness r, a[g] is (s_g sqrt(r), sqrt(1 - r)) on (common component, domain g's
own component), where s_g = -1 for opposed domains and 1 otherwise; b is the same without signs. Therefore

    correlation of (g, o) and (h, p) = R_domain[g, h] * R_objective[o, p],  R = 1 on the diagonal, +-r elsewhere

and with r = 1, the logits of two domains of opposite signs are exactly opposite. With drift, there are two uncorrelated
sets of weights, w0 and w1, and the logit at rotation t is cos(t) w0 + sin(t) w1, which has the same variance and
correlations at any time.

Each component is a planted logit (`structures`: unit variance, pure orders) and may have a sequence part. Components
that are drawn independently still correlate by chance, by about 0.1. Their covariances are known exactly for each
part, so each part is whitened over the components by the inverse Cholesky factor, which removes what the earlier
components explain. Shares and correlations are therefore exact, not estimated from samples. These are our own choices.
"""

import numpy as np

from wukong_jax.data.planted.portfolios_config import PlantedPortfoliosConfig
from wukong_jax.data.planted.sequences import compute_match_part, draw_match, position_weights
from wukong_jax.data.planted.structures import PlantedLogit
from wukong_jax.errors import UserError

_LEAST_EIGENVALUE = 1e-3  # limit for a part's covariance over the components
_MOST_COORDINATES = 1 << 29


class PortfolioLogits:
    """Computes the logits of G x O portfolios without biases, from P parts: one per order, and the sequence part."""

    def __init__(
        self, generator: np.random.Generator, probabilities: np.ndarray, config: PlantedPortfoliosConfig
    ) -> None:
        """Draws the components and whitens them.

        Args:
          generator: random generator for all draws.
          probabilities: [values] probabilities of each field's values from 1.
          config: configuration of the generator.

        Raises:
          UserError: an order has too few fields, or there are too few values for the number of portfolios.
        """
        self.weights = compute_component_weights(config)  # [G, O, components]
        self._phases = 2 if config.drift_degrees else 1
        count = self._phases * self.weights.shape[2]
        self.structures = [_draw_structure(generator, probabilities, config) for _ in range(count)]
        self._history_weights = position_weights(config.sequence_length, config.sequence_decay)
        self.matches: list[PlantedLogit] = []
        shares = np.array(config.order_shares) * (1 - config.sequence_share)
        if config.sequence_share:
            self.matches = [draw_match(generator, probabilities, config.latent_width) for _ in range(count)]
            shares = np.append(shares, config.sequence_share)
        self.covariances = _compute_covariances(self.structures, self.matches, probabilities)  # [P, C, C]
        factors = config.logit_deviation * np.sqrt(shares)
        self.coefficients = self._mix_components(factors)  # [phases, P, G, O, C]

    @property
    def correlations(self) -> np.ndarray:
        """Correlations of the true logits, [G x O, G x O]; portfolios are ordered by domain, then objective."""
        flat = self.weights.reshape(-1, self.weights.shape[2])
        return flat @ flat.T

    def parts(self, values: np.ndarray, dense: np.ndarray, history: np.ndarray) -> np.ndarray:
        """Computes the parts of every component before whitening, each of unit variance.

        Args:
          values: [B, entity fields] int32, at least 1: segment, category, then the fields.
          dense: [B, dense fields] float32.
          history: [B, L] int32 categories.

        Returns:
          [P, C, B] float32.
        """
        drawn = np.stack([structure.parts(values, dense) for structure in self.structures], axis=1)
        if not self.matches:
            return drawn
        matched = [compute_match_part(match, self._history_weights, values[:, 1], history) for match in self.matches]
        return np.concatenate([drawn, np.stack(matched)[None]])

    def combine(self, parts: np.ndarray, domain: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Combines the parts into the logits of rows in their domains.

        Args:
          parts: parts from the method `parts`.
          domain: [B] int32.
          turn: [B] float64, rotation of the weights in radians; unused without drift.

        Returns:
          [B, O] float32 logits without biases.
        """
        _, _, domains, objectives, _ = self.coefficients.shape
        logits = np.zeros((len(domain), objectives), np.float32)
        for g in range(domains):
            rows = np.flatnonzero(domain == g)
            if len(rows):
                logits[rows] = self._combine_in_domain(parts[:, :, rows], g, turn[rows])
        return logits

    def _combine_in_domain(self, parts: np.ndarray, domain: int, turn: np.ndarray) -> np.ndarray:
        waves = [np.cos(turn), np.sin(turn)] if self._phases == 2 else [np.ones_like(turn)]
        logits = np.zeros((len(turn), self.coefficients.shape[3]), np.float32)
        for wave, coefficients in zip(waves, self.coefficients[:, :, domain], strict=True):
            for objective in range(logits.shape[1]):
                # Component by component rather than a matrix product, so that sums are the same on any machine.
                total = np.zeros(len(turn), np.float32)
                for part, column in zip(parts, coefficients[:, objective], strict=True):
                    for component in np.flatnonzero(column):
                        total += np.float32(column[component]) * part[component]
                logits[:, objective] += wave.astype(np.float32) * total
        return logits

    def _mix_components(self, factors: np.ndarray) -> np.ndarray:
        """Computes the coefficients of the components before whitening, [phases, P, G, O, C] float64."""
        domains, objectives, own = self.weights.shape
        mixed = np.zeros((self._phases, len(factors), domains, objectives, own * self._phases))
        for part, (factor, covariance) in enumerate(zip(factors, self.covariances, strict=True)):
            whitening = np.tril(np.linalg.inv(np.linalg.cholesky(covariance)))
            for phase in range(self._phases):
                mixed[phase, part] = factor * self.weights @ whitening[phase * own : (phase + 1) * own]
        return mixed


def compute_component_weights(config: PlantedPortfoliosConfig) -> np.ndarray:
    """Computes the weight of each uncorrelated component in each portfolio.

    Args:
      config: configuration of the generator.

    Returns:
      [G, O, components] float64; a portfolio's squared weights sum to 1. Components without weight are left out.
    """
    by_domain = _relate(config.domains, config.domain_relatedness)
    by_domain[list(config.opposed_domains), 0] *= -1
    by_objective = _relate(len(config.objectives), config.objective_relatedness)
    weights = np.einsum("gi,oj->goij", by_domain, by_objective)
    weights = weights.reshape(*weights.shape[:2], -1)
    return weights[:, :, np.abs(weights).max(axis=(0, 1)) > 0]


def check_memory(config: PlantedPortfoliosConfig) -> None:
    """Checks that the latent coordinates fit in memory.

    Raises:
      UserError: there are too many coordinates.
    """
    components = compute_component_weights(config).shape[2] * (2 if config.drift_degrees else 1)
    tables = (config.entity_fields + 2) * config.latent_width + config.entity_fields
    coordinates = components * tables * config.values_per_field
    if coordinates > _MOST_COORDINATES:
        raise UserError(
            f"values_per_field = {config.values_per_field}: {components} components x {tables} x "
            f"{config.values_per_field} coordinates, the limit is {_MOST_COORDINATES}; take fewer values, fields, "
            "latent coordinates, domains or objectives"
        )


def compute_part_covariance(first: PlantedLogit, second: PlantedLogit, order: int, probabilities: np.ndarray) -> float:
    """Computes the exact covariance of the parts of one order of two planted logits over the same columns.

    Terms of different fields are uncorrelated (`structures`). For terms of the same fields, which are independent, the
    covariance is the sum of the elementwise product of the fields' cross moments.

    Args:
      first: a planted logit.
      second: another planted logit with the same fields and orders.
      order: order of the parts.
      probabilities: [values] probabilities of each field's values from 1.
    """

    def cross_moments(field: int, table: np.ndarray, other: np.ndarray) -> np.ndarray:
        table, other = table.astype(np.float64), other.astype(np.float64)
        return table.T @ other if field >= first.fields else (table[1:].T * probabilities) @ other[1:]

    scale = first.scales[order] * second.scales[order]
    if order == 1:
        pairs = zip(first.weights, second.weights, strict=True)
        return scale * sum(float(cross_moments(field, *pair)[0, 0]) for field, pair in enumerate(pairs))
    others = {term.fields: term.tables for term in second.terms[order]}
    total = 0.0
    for term in first.terms[order]:
        if term.fields in others:
            product = np.ones(())
            for field, table, other in zip(term.fields, term.tables, others[term.fields], strict=True):
                product = product * cross_moments(field, first.tables[table], second.tables[other])
            total += float(product.sum())
    return scale * total


def _relate(count: int, relatedness: float) -> np.ndarray:
    """Returns the weights of the common and the separate components, [count, 1 + count]; common only if count is 1."""
    if count == 1:
        return np.array([[1.0, 0.0]])
    common = np.full((count, 1), np.sqrt(relatedness))
    return np.concatenate([common, np.sqrt(1 - relatedness) * np.eye(count)], axis=1)


def _draw_structure(
    generator: np.random.Generator, probabilities: np.ndarray, config: PlantedPortfoliosConfig
) -> PlantedLogit:
    return PlantedLogit(
        generator,
        probabilities,
        fields=config.entity_fields,
        dense_fields=config.dense_fields,
        structure="factorized",
        orders=config.orders,
        interactions=config.interactions,
        latent_width=config.latent_width,
    )


def _compute_covariances(
    structures: list[PlantedLogit], matches: list[PlantedLogit], probabilities: np.ndarray
) -> np.ndarray:
    """Computes the components' covariances in each part, [P, C, C]; raises if components are nearly dependent."""
    parts = [(f"order {order}", structures, order) for order in structures[0].orders]
    parts += [("the sequence's part", matches, 2)] if matches else []
    covariances = np.zeros((len(parts), len(structures), len(structures)))
    for covariance, (name, drawn, order) in zip(covariances, parts, strict=True):
        for i, first in enumerate(drawn):
            for j, second in enumerate(drawn[: i + 1]):
                covariance[i, j] = covariance[j, i] = compute_part_covariance(first, second, order, probabilities)
        least = float(np.linalg.eigvalsh(covariance)[0])
        if least < _LEAST_EIGENVALUE:
            raise UserError(
                f"values_per_field = {len(probabilities)}: {name} has no room for {len(drawn)} uncorrelated "
                f"components (least eigenvalue {least:.1e}, the limit is {_LEAST_EIGENVALUE:g}); take more values, "
                "fields, interactions or latent_width, or fewer domains and objectives"
            )
    return covariances
