"""The moving average of the weights, which is what is exported."""

from typing import Any

from diffusers.training_utils import EMAModel

from diffpo.core.sharding import gather_tensor, split_like


class EmaWeights(EMAModel):
    """The moving average of diffusers, of weights that may be split over processes; a checkpoint holds it whole."""

    def state_dict(self) -> dict[str, Any]:
        """All processes have to call it."""
        state = super().state_dict()
        return state | {"shadow_params": [gather_tensor(average) for average in self.shadow_params]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        split = [split_like(*both) for both in zip(state_dict["shadow_params"], self.shadow_params, strict=True)]
        super().load_state_dict(state_dict | {"shadow_params": split})
