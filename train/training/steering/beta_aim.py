"""What beta is at a step: the recipe's number, or, for `objective.beta = "auto"`, what keeps DPO's gradient at work.

A pair's gradient is in proportion to sigmoid(-h). With a mean size of margin D = |(m_w - m_l) - (r_w - r_l)|, that
factor is g at beta = 2 log((1 - g) / g) / D for a pair that is right by as much. D is a moving average over the steps
before, so all processes have the same, and how a step is cut does not matter. Source of the rule: bghira/SimpleTuner,
flow_dpo/distiller.py at 1b1d39b, which takes the running micro-batch's D, too.
"""

import math

from jaxtyping import Float
from torch import Tensor

from train.config import Objective
from train.data.latents import Batch
from train.model.families import Scheduler
from train.objectives import Beta

DECAY = 0.95  # of the average, at each step


class BetaAim:
    """beta of the running step; `size` goes into checkpoints."""

    def __init__(self, objective: Objective, scheduler: Scheduler, size: float | None = None) -> None:
        self.objective, self.scheduler, self.size = objective, scheduler, size

    @property
    def value(self) -> float:
        """Before any margin is known, as in a run's first step, where policy and reference are one: `beta_most`."""
        beta, most = self.objective.beta, self.objective.beta_most
        if beta != "auto":
            return beta
        wanted = self.objective.beta_aim
        return min(most, 2 * math.log((1 - wanted) / wanted) / self.size) if self.size else most

    def of(self, batch: Batch) -> Beta:
        """beta of each pair, or one number where all have the same."""
        factors = [batch.of_pairs.get("betas"), self._space_factor(batch.timesteps)]
        return math.prod((one for one in factors if one is not None), start=self.value)

    def _space_factor(self, timesteps: Tensor) -> Float[Tensor, " pair"] | None:
        """What beta is multiplied by, for it to be constant in epsilon- or velocity-space; None for 1 at all timesteps.

        With noisy = a latents + s noise the same error is, in epsilon, a times that in v (alpha noise - sigma latents),
        and a = 1 - s times that in the flow (noise - latents). So squared errors differ by a^2.
        """
        space, config = self.objective.beta_space, self.scheduler.config
        is_flow = "prediction_type" not in config
        predicted = "epsilon" if not is_flow and config["prediction_type"] == "epsilon" else "velocity"
        if space in ("prediction", predicted):
            return None
        if is_flow:
            kept = (1 - self.scheduler.sigmas.flip(0).to(timesteps.device)[timesteps]).square()
        else:
            kept = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]  # a^2
        return kept if space == "epsilon" else 1 / kept

    def update(self, size: float) -> None:
        """size: the mean over a step's pairs of the margin's size."""
        if math.isfinite(size) and size > 0:
            self.size = size if self.size is None else DECAY * self.size + (1 - DECAY) * size
