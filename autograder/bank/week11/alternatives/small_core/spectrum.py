"""Singular values of a product of thin factors, without the product."""

import torch


def factors_svd(B, A):
    """U, S, Vh of B A: two QR decompositions, and the SVD of the small core between them."""
    Qb, Rb = torch.linalg.qr(B)
    Qa, Ra = torch.linalg.qr(A.mT)
    U, S, Vh = torch.linalg.svd(Rb @ Ra.mT)
    return Qb @ U, S, Vh @ Qa.mT


def widened(*tensors):
    return [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]
