"""A linear classifier after dropout."""

from typing import Any

from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn

from ra_mm.registry import MODELS


@MODELS.register_module()
class DropoutClsHead(LinearClsHead):
    """LinearClsHead that drops features before the classifier (Table 1).

    Dropout has no weights, so checkpoints are LinearClsHead's.

    Args:
        dropout_rate (float): Probability that a feature is dropped in
            training, Table 1's 'Dropout rate'.
        num_classes (int): Number of classes.
        in_channels (int): Number of features.
        **kwargs: As for :class:`mmpretrain.models.LinearClsHead`.

    Raises:
        ValueError: If the rate is not in [0, 1].
    """

    def __init__(
        self, dropout_rate: float, num_classes: int, in_channels: int, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.dropout = nn.Dropout(dropout_rate)

    def pre_logits(self, feats: tuple[Tensor]) -> Tensor:
        """The last stage's features after dropout, (N, in_channels)."""
        return self.dropout(super().pre_logits(feats))
