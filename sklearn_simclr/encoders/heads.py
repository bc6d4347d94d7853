"""The projection head g between the representation h and the projection z."""

from numbers import Integral

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ProjectionHead"]


class _BatchNorm(nn.BatchNorm1d):
    """BatchNorm that can do without a shift and takes a lone row in training mode."""

    def __init__(self, width: int, shift: bool) -> None:
        super().__init__(width, eps=1e-5, momentum=0.1)
        if not shift:
            self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        # Older releases of torch fail where there is no shift.
        self.reset_running_stats()
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            # The statistics of one row are the row itself: nothing would be left of it.
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class _LeadingLinear(nn.Linear):
    """A linear map of the first `in_features` numbers of each row."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, : self.in_features])


class ProjectionHead(nn.Module):
    """Multilayer perceptron from the representation h to the projection z.

    Hidden layers are a linear map without bias, BatchNorm and ReLU; the last layer is a linear map without
    bias and BatchNorm without shift. Two layers are the head of SimCLR, three that of SimCLRv2.

    Parameters
    ----------
    in_dim : int
        Width of h, >= 1.
    out_dim : int, default=128
        Width of z, >= 1. Not used when `n_layers` is 0, where z is h.
    n_layers : int, default=2
        Number of linear maps, >= 0: 0 is the identity, 1 a linear head.
    hidden_dim : int or None, default=None
        Width of the hidden layers, >= 1; None means `read_dim`.
    read_dim : int or None, default=None
        How many numbers of h the first layer reads, the first ones, from 1 to `in_dim`; None means all.

    Attributes
    ----------
    in_dim : int
        Width of h.
    read_dim : int
        How many numbers of h the first layer reads.
    out_dim : int
        Width of z.
    n_layers : int
        Number of linear maps.
    layers : torch.nn.ModuleList
        The layers in order.

    Raises
    ------
    TypeError
        If a width or `n_layers` is not an int.
    ValueError
        If a width or `n_layers` is out of range.

    See Also
    --------
    make_encoder : Builds the network below the head.
    sklearn_simclr.losses.nt_xent : The loss on what the head returns.

    Notes
    -----
    A batch of one row has no statistics of its own: in training mode it is normalised by the running ones,
    which it leaves alone. (A contrastive batch has at least two rows, the views of one image.)

    References
    ----------
    Chen et al., 2020, arXiv:2002.05709, section 4.2; Chen et al., 2020, arXiv:2006.10029, section 2. Biases
    and BatchNorm as in github.com/google-research/simclr, model_util.py.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.encoders import ProjectionHead
    >>> head = ProjectionHead(512, n_layers=3, hidden_dim=256)
    >>> h = torch.randn(4, 512)
    >>> head(h).shape, head(h, n_layers=1).shape
    (torch.Size([4, 128]), torch.Size([4, 256]))
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 128,
        n_layers: int = 2,
        hidden_dim: int | None = None,
        read_dim: int | None = None,
    ) -> None:
        super().__init__()
        read_dim = in_dim if read_dim is None else read_dim
        hidden_dim = read_dim if hidden_dim is None else hidden_dim
        for name, value, smallest in (
            ("in_dim", in_dim, 1),
            ("out_dim", out_dim, 1),
            ("n_layers", n_layers, 0),
            ("hidden_dim", hidden_dim, 1),
            ("read_dim", read_dim, 1),
        ):
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, got {value!r}; pass an int >= {smallest}.")
            if value < smallest:
                raise ValueError(f"{name}={value} is out of range; pass an int >= {smallest}.")
        if read_dim > in_dim:
            raise ValueError(f"read_dim={read_dim} is more than in_dim={in_dim}; pass at most {in_dim}.")
        self.in_dim = in_dim
        self.read_dim = read_dim
        self.out_dim = out_dim if n_layers else in_dim
        self.n_layers = n_layers
        widths = [in_dim] + [hidden_dim] * (n_layers - 1) + [self.out_dim] * (n_layers > 0)
        self.layers = nn.ModuleList()
        for k in range(n_layers):
            hidden = k < n_layers - 1
            linear = _LeadingLinear if k == 0 and read_dim < in_dim else nn.Linear
            layer = nn.Sequential(
                linear(widths[k] if k else read_dim, widths[k + 1], bias=False),
                _BatchNorm(widths[k + 1], shift=hidden),
            )
            if hidden:
                layer.append(nn.ReLU(inplace=True))
            self.layers.append(layer)
        self._widths = tuple(widths)

    def forward(self, h: Tensor, n_layers: int | None = None) -> Tensor:
        """Return the output of one of the layers.

        Parameters
        ----------
        h : torch.Tensor of shape (n, in_dim)
            Representations.
        n_layers : int or None, default=None
            How many layers to apply, 0 to ``self.n_layers``: 0 gives h, the output of a hidden layer is taken
            after its ReLU. None means all.

        Returns
        -------
        output : torch.Tensor of shape (n, layer_dim(n_layers))
            Projections z, or the hidden layer asked for.

        Raises
        ------
        ValueError
            If the head has no such layer.
        """
        k = self.n_layers if n_layers is None else self._check_layer(n_layers)
        for layer in self.layers[:k]:
            h = layer(h)
        return h

    def layer_dim(self, k: int) -> int:
        """Return the width of the output of a layer.

        Parameters
        ----------
        k : int
            Number of layers applied, 0 to ``self.n_layers``.

        Returns
        -------
        width : int
            ``in_dim`` for 0, ``out_dim`` for the last.

        Raises
        ------
        ValueError
            If the head has no such layer.
        """
        return self._widths[self._check_layer(k)]

    def _check_layer(self, k: int) -> int:
        if not isinstance(k, Integral) or isinstance(k, bool) or not 0 <= k <= self.n_layers:
            raise ValueError(f"layer {k!r} does not exist; pass an int from 0 (h) to {self.n_layers} (z).")
        return int(k)
