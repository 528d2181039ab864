"""What every backend is given of a layer that learns online."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .contract import Array
from .jacobian import Jacobian, add_rows


class LayerParams(NamedTuple):
    """One layer: its Jacobian, its arrays and those of its gradients, by the cell's names."""

    jacobian: Jacobian
    params: Mapping[str, Array]
    grads: dict[str, Array]

    @property
    def units(self) -> tuple[str, ...]:
        """The per-unit parameters of the cell."""
        return self.jacobian.plan.cell.units

    @property
    def sizes(self) -> tuple[int, int, int]:
        """D, H, and the rows of parameters C."""
        (D, columns), plan = self.params["Wx"].shape, self.jacobian.plan
        H = columns // plan.n_gates
        return D, H, D * plan.n_gates + H * plan.n_matrices + self.jacobian.rows

    def split(self, rows: Array) -> tuple[Array, Array, Array]:
        """Views of rows (..., C, H): of Wx (..., D, G, H), of Wh (..., H, P, H), of the units (..., U, H)."""
        (D, H, _), plan = self.sizes, self.jacobian.plan
        of_x, of_h = D * plan.n_gates, H * plan.n_matrices
        x, h = rows[..., :of_x, :], rows[..., of_x : of_x + of_h, :]
        lead = rows.shape[:-2]
        return (
            x.reshape(*lead, D, plan.n_gates, H),
            h.reshape(*lead, H, plan.n_matrices, H),
            rows[..., of_x + of_h :, :],
        )

    def add_gradient(self, rows: Array) -> None:
        """Add the gradient of the rows of parameters (C, H) to ``grads``."""
        x, h, units = self.split(rows)
        self.grads["Wx"] += x.reshape(self.grads["Wx"].shape)
        if "Wh" in self.grads:
            self.grads["Wh"] += h.reshape(self.grads["Wh"].shape)
        add_rows(self.jacobian.plan, units, self.grads)
