"""The network that SimCLR trains (Chen et al. 2020, section 2.1 and figure 2)."""

from torch import Tensor, nn

from stages.simclr.encoder import Encoder


class SimCLR(nn.Module):
    """x -> h = f(x) -> z = g(h), with the encoder f and the projection head g, which is discarded after pretraining.

    The head has one hidden layer of 4P, as in the reference experiment (512 at P = 128).
    """

    def __init__(self, backbone: str, stem: str, projection_dim: int) -> None:
        super().__init__()
        hidden = 4 * projection_dim
        self.encoder = Encoder(backbone, stem)
        self.head = nn.Sequential(
            nn.Linear(self.encoder.features, hidden), nn.ReLU(), nn.Linear(hidden, projection_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(V, 3, H, W) pixels 0..255 -> z (V, P)."""
        return self.head(self.encoder(x))
