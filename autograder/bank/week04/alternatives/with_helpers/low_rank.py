"""Matrix work for lora_linear.py: no modules here, only tensors."""

import torch
from torch import Tensor


def orthogonal_rows(rows: int, columns: int, like: Tensor) -> Tensor:
    """Random orthonormal rows, drawn on the CPU in float64 and cast: no QR in half precision."""
    square = torch.randn(columns, rows, dtype=torch.float64)
    q, _ = torch.linalg.qr(square)
    return q.T.contiguous().to(like)


def truncate(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (B, A) of the best approximation, the singular values all in A."""
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    return u[:, :rank].contiguous(), (s[:rank].diag() @ vh[:rank]).contiguous()


def extend_rows(rows: Tensor, count: int) -> Tensor:
    """`count` random rows beside those given, orthogonal to them, so the rank grows by `count`."""
    old = rows.double()
    new = torch.randn(count, old.shape[1], dtype=torch.float64)
    new = new - new @ torch.linalg.pinv(old) @ old
    return torch.cat([rows, (new / new.norm(dim=1, keepdim=True)).to(rows)])
