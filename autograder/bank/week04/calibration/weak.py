"""Week 4: a LoRA layer whose rank can be changed, and its injection into a model.

Complete tasks 4.1 to 4.4 below, in any order; 4.5 to 4.7 are stretch tasks, checked but without marks.
`autograder check 4` tells how far you are and `autograder check 4.2` checks one task alone. Each docstring is
the contract: the checks use the names, shapes and errors that stand there and nothing else, so everything else
is yours to choose. Helper functions, private attributes and helper modules beside this file are welcome.

Convention: y = W0 x + b + (alpha / rank) B A x, with A (rank x in_features) and B (out_features x rank),
so the weight update is dW = (alpha / rank) B A. Source: Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", arXiv:2106.09685, section 4.1.

Task   points  minutes  difficulty  importance (both from 1 to 5)
4.1        25       50           2           5
4.2        15       25           2           4
4.3        15       40           4           3
4.4        15       35           3           5
4.5   stretch       30           3           3
4.6   stretch       20           2           2
4.7   stretch       45           3           3
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` with a trainable branch of low rank beside it.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        lora_A: `nn.Parameter`, shape (rank, in_features).
        lora_B: `nn.Parameter`, shape (out_features, rank).
        rank: int.
        alpha: float, as it was passed in.
        scaling: float, alpha / rank.
        merged: bool, whether base.weight contains the update now; False at first.
        enabled: bool, whether the branch is used; True at first.

    lora_A and lora_B are the only trainable parameters and have base.weight's dtype and device. `merged` and
    `enabled` are plain attributes: a caller may set them.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        """Task 4.1: freeze `base` and add the two factors.

        At the start A is random with linearly independent rows (how it is drawn is yours: the paper takes a
        Gaussian, peft a Kaiming uniform) and B is zero, so the layer begins as `base` exactly.

        Args:
            base: the layer to adapt, with or without a bias.
            rank: inner dimension, 1 <= rank <= min(in_features, out_features).
            alpha: numerator of the scaling.
            dropout: probability of dropout on the branch's input, 0 <= dropout < 1.

        Raises:
            ValueError: if rank or dropout is out of its range.
        """
        super().__init__()
        if rank < 1:
            raise ValueError
        if rank > base.in_features:
            raise ValueError
        if rank > base.out_features:
            raise ValueError
        if dropout < 0:
            raise ValueError
        if dropout >= 1:
            raise ValueError
        self.base = base
        self.base.weight.requires_grad = False
        if self.base.bias is not None:
            self.base.bias.requires_grad = False
            self.has_bias = True
        else:
            self.has_bias = False
        self.in_f = base.in_features
        self.out_f = base.out_features
        self.rank = rank
        self.old_rank = rank
        self.alpha = alpha
        self.scaling = self.alpha / self.rank
        self.merged = False
        self.enabled = True
        self.p = dropout
        self.do = nn.Dropout(self.p)
        self.lora_A = nn.Parameter(
            torch.randn(self.rank, self.in_f, dtype=self.base.weight.dtype, device=self.base.weight.device)
        )
        self.lora_B = nn.Parameter(
            torch.zeros(self.out_f, self.rank, dtype=self.base.weight.dtype, device=self.base.weight.device)
        )
        # print("A", self.lora_A.shape, "B", self.lora_B.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Task 4.1: y = W0 x + b + (alpha / rank) B A dropout(x).

        Dropout acts on the elements of the branch's input only, never on the input of `base`, in training mode only.
        While the layer is `merged` or not `enabled`, the result is `base(x)`: a merged weight holds the update
        already.

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        if self.merged == True:
            y = self.base(x)
            return y
        elif self.enabled == False:
            y = self.base(x)
            return y
        else:
            y = self.base(x)
            if self.p > 0:
                if self.training == True:
                    x2 = self.do(x)
                else:
                    x2 = x
            else:
                x2 = x
            z = torch.matmul(x2, self.lora_A.transpose(0, 1))
            z = torch.matmul(z, self.lora_B.transpose(0, 1))
            z = z * self.scaling
            # print(y.shape, z.shape)
            y = y + z
            return y

    def merge(self) -> None:
        """Task 4.2: add dW = (alpha / rank) B A to base.weight, in place, and set `merged`.

        base.weight stays the same Parameter (another module may share it) and stays frozen; the bias, lora_A and
        lora_B do not change. Training mode, dropout and `enabled` make no difference. Merging a merged layer does nothing.
        """
        if self.merged == False:
            with torch.no_grad():
                d = torch.matmul(self.lora_B.detach().clone(), self.lora_A.detach().clone())
                d = d * self.scaling
                # self.base.weight = nn.Parameter(self.base.weight + d)   # breaks tied weights
                self.base.weight.data.copy_(self.base.weight.data + d)
            self.merged = True
        else:
            pass

    def unmerge(self) -> None:
        """Task 4.2: take dW out of base.weight again, in place, and clear `merged`.

        Afterwards each weight is back within 4 eps (|W0| + |dW|), eps being that of base.weight's dtype.
        Unmerging a layer that is not merged does nothing.
        """
        if self.merged == True:
            with torch.no_grad():
                d = torch.matmul(self.lora_B.detach().clone(), self.lora_A.detach().clone())
                d = d * self.scaling
                self.base.weight.data.copy_(self.base.weight.data - d)
            self.merged = False
        else:
            pass

    def set_rank(self, new_rank: int) -> None:
        """Task 4.3: change the rank; alpha stays, so scaling becomes alpha / new_rank.

        Growing keeps dW unchanged: B and A are rescaled for the new scaling, A gets fresh random rows (all rows
        linearly independent again) and B gets zero columns. Shrinking keeps the best approximation of dW of rank
        new_rank, the truncated SVD (Eckart and Young, 1936). An equal rank keeps dW. How a factor of two is
        shared between B and A, and the signs of the SVD, are yours.

        lora_A and lora_B are trainable `nn.Parameter`s of the new shapes, with base.weight's dtype and device;
        they may be new objects, so build the optimizer after this call.

        Args:
            new_rank: 1 <= new_rank <= min(in_features, out_features).

        Raises:
            ValueError: if new_rank is out of its range.
            RuntimeError: if the layer is merged.
        """
        if new_rank < 1:
            raise ValueError
        if new_rank > self.in_f:
            raise ValueError
        if new_rank > self.out_f:
            raise ValueError
        if self.merged == True:
            raise RuntimeError
        self.old_rank = self.rank
        if new_rank == self.rank:
            self.lora_A = nn.Parameter(self.lora_A.detach().clone())
            self.lora_B = nn.Parameter(self.lora_B.detach().clone())
            return
        if new_rank > self.rank:
            # bigger
            A = torch.randn(new_rank, self.in_f, dtype=self.base.weight.dtype, device=self.base.weight.device)
            B = torch.zeros(self.out_f, new_rank, dtype=self.base.weight.dtype, device=self.base.weight.device)
            for i in range(self.rank):
                A[i] = self.lora_A.detach().clone()[i]
            for i in range(self.rank):
                B[:, i] = self.lora_B.detach().clone()[:, i] * new_rank / self.rank
            self.lora_A = nn.Parameter(A)
            self.lora_B = nn.Parameter(B)
            self.rank = new_rank
            self.scaling = self.alpha / self.rank
            return
        if new_rank < self.rank:
            # smaller
            flag = 0
            a2 = self.lora_A.detach().clone()
            b2 = self.lora_B.detach().clone()
            if self.base.weight.dtype == torch.float16:
                flag = 1
                a2 = a2.float()
                b2 = b2.float()
            if self.base.weight.dtype == torch.bfloat16:
                flag = 1
                a2 = a2.float()
                b2 = b2.float()
            d = torch.matmul(b2, a2)
            d = d * new_rank
            d = d / self.rank
            res = torch.linalg.svd(d)
            # print(res[1])
            A = torch.zeros(new_rank, self.in_f, dtype=d.dtype, device=d.device)
            B = torch.zeros(self.out_f, new_rank, dtype=d.dtype, device=d.device)
            for i in range(new_rank):
                A[i] = res[2][i]
                B[:, i] = res[0][:, i] * res[1][i]
            if flag == 1:
                A = A.to(self.base.weight.dtype)
                B = B.to(self.base.weight.dtype)
            self.lora_A = nn.Parameter(A)
            self.lora_B = nn.Parameter(B)
            self.rank = new_rank
            self.scaling = self.alpha / self.rank
            return


def inject_lora(
    model: nn.Module,
    target_modules: Iterable[str],
    rank: int | Mapping[str, int],
    alpha: float,
    dropout: float = 0.0,
) -> list[str]:
    """Task 4.4: replace the targeted `nn.Linear` layers of `model` by `LoRALinear`, in place.

    A target t matches a module whose full dotted name is t or ends with "." + t: "q" matches "q" and "block.0.q",
    not "block.0.qkv" and not "seq". Only `nn.Linear` is replaced; other modules of a matching name are left. A
    Linear that stands at several names is wrapped once, and the one LoRALinear stands at each name that matches, also
    where only a later call's targets match it. Nothing inside a LoRALinear is ever wrapped, so a second call with the
    same targets changes nothing.

    When it returns, the factors of all LoRALinear layers in the model are trainable and nothing else is:
    embeddings, norms and layers that were not targeted are frozen too.

    Args:
        model: any module; it is not itself replaced.
        target_modules: names or dotted suffixes, in any iterable, a generator included.
        rank: one rank for all, or a rank for each target. Where several targets match a name, the longest counts.
        alpha: as in LoRALinear, the same for all.
        dropout: as in LoRALinear, the same for all.

    Returns:
        The full names of the modules that this call replaced, sorted.

    Raises:
        ValueError: if a target matches no Linear and no LoRALinear, before anything is changed.
    """
    l = []
    for t in target_modules:
        l.append(t)
    d = {}
    for n, m in model.named_modules(remove_duplicate=False):
        d[n] = m
    inside = []
    for n in d:
        if type(d[n]) == LoRALinear:
            for n2 in d:
                if n2.startswith(n + ".") or (n == "" and n2 != ""):
                    inside.append(n2)
    # first check that all the targets exist
    for t in l:
        cnt = 0
        for n in d:
            if n != "" and n not in inside:
                if n == t or n[-len(t) - 1 :] == "." + t:
                    if isinstance(d[n], nn.Linear):
                        cnt = cnt + 1
                    elif type(d[n]) == LoRALinear:
                        cnt = cnt + 1
        if cnt == 0:
            raise ValueError
    for n, p in model.named_parameters():
        p.requires_grad = False
    res = []
    old = []
    new = []
    for n in d:
        if type(d[n]) == LoRALinear:
            old.append(d[n].base)
            new.append(d[n])
    for n in d:
        if n != "" and n not in inside:
            best = None
            for t in l:
                if n == t or n[-len(t) - 1 :] == "." + t:
                    if best is None:
                        best = t
                    elif len(t) > len(best):
                        best = t
            if best is not None:
                if isinstance(d[n], nn.Linear):
                    lora = None
                    for i in range(len(old)):
                        if old[i] is d[n]:
                            lora = new[i]
                    if lora is None:
                        try:
                            r = rank[best]
                        except TypeError:
                            r = rank
                        lora = LoRALinear(d[n], r, alpha, dropout)
                        old.append(d[n])
                        new.append(lora)
                    x = n.split(".")
                    p = model
                    for i in range(len(x) - 1):
                        p = getattr(p, x[i])
                    setattr(p, x[-1], lora)
                    # print("replaced", n)
                    res.append(n)
    for n, m in model.named_modules():
        if type(m) == LoRALinear:
            for n2, p in m.named_parameters():
                if n2 == "lora_A":
                    p.requires_grad = True
                if n2 == "lora_B":
                    p.requires_grad = True
    res = sorted(res)
    return res


def checkpointed(block: nn.Module) -> nn.Module:
    """Task 4.5 (stretch): a module that computes what `block` computes and keeps nothing from inside it.

    Called in training mode with gradients enabled, the result keeps the arguments and the parameters, and no tensor
    that arises inside `block`; back-propagation calls `block`'s forward a second time to get them again. So a pass
    forward and back calls it exactly twice: once when the result is called, once more during the backward pass.

    - The output and all gradients are those of `block`, also where no argument requires a gradient: behind a frozen
      embedding none does, and the parameters inside still have to learn.
    - The parameters of the result are those of `block`, the same objects, each of them once; how they are named is yours.
      Training and evaluation mode of the result reach `block`.
    - Random numbers too are those of `block`: from an equal state of torch's generator comes an equal output, the
      second call draws the same dropout masks, and afterwards the generator stands where one call of `block` leaves it.
    - Positional and keyword arguments of any kind are passed on, and tensors among them get their gradients.
    - The result may be called several times before the first backward pass.
    - Under `torch.no_grad()` it only computes: one call of `block`. Whether it recomputes in evaluation mode with
      gradients enabled is yours, and so is whether the result is a new module or `block` with another forward.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174, section 3.
    `torch.utils.checkpoint` may be used.

    Args:
        block: any module that returns one tensor.

    Returns:
        The module described above.
    """
    return Ckpt(block)




def lora_plus_groups(model: nn.Module, lr: float, ratio: float = 16.0) -> list[dict[str, Any]]:
    """Task 4.6 (stretch): parameter groups with the two learning rates of LoRA+.

    The lora_B of every LoRALinear layer gets lr * ratio; every other trainable parameter, lora_A included, gets lr.
    What decides is the layer that holds a factor, not how a parameter is named. Each trainable parameter stands in
    exactly one group, exactly once, also when it is shared or its layer stands at several names; frozen parameters,
    frozen factors included, stand in none.

    Source: Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", arXiv:2402.12354, section 4, which
    finds a ratio of about 16 to do well.

    Args:
        model: any module, with or without LoRALinear layers.
        lr: rate of everything but the lora_B, greater than 0.
        ratio: how many times faster the lora_B learn, greater than 0.

    Returns:
        Groups as `torch.optim` takes them: dicts with "params", a list of Parameters, and "lr", and no other option.
        How many groups there are and in which order is yours; a group may be empty.

    Raises:
        ValueError: if lr or ratio is not greater than 0, or the model has no trainable parameter.
    """
    if lr <= 0:
        raise ValueError
    if ratio <= 0:
        raise ValueError
    g1 = []
    g2 = []
    for n, p in model.named_parameters():
        if p.requires_grad == True:
            is_b = False
            for n2, m in model.named_modules():
                if type(m) == LoRALinear:
                    if m.lora_B is p:
                        is_b = True
            if is_b == True:
                g2.append(p)
            else:
                g1.append(p)
    if len(g1) == 0 and len(g2) == 0:
        raise ValueError
    # print(len(g1), len(g2))
    return [{"params": g1, "lr": lr}, {"params": g2, "lr": lr * ratio}]


class AdapterLinear(nn.Module):
    """A frozen `nn.Linear` with a bottleneck adapter behind it: h + up(gelu(down(h))) with h = base(x).

    `PEFTApplier` puts it in place of a targeted layer. Source: Houlsby et al., "Parameter-Efficient Transfer Learning
    for NLP", arXiv:1902.00751, section 2.1, whose start near the identity is exact here.

    Attributes:
        base: the `nn.Linear` that was passed in, the same object, its weight and bias frozen.
        down: `nn.Linear` from out_features to size, with a bias.
        up: `nn.Linear` from size to out_features, with a bias.

    down and up are trainable and have base.weight's dtype and device.
    """

    def __init__(self, base: nn.Linear, size: int) -> None:
        """Task 4.7 (stretch): freeze `base` and add the adapter.

        At the start up.weight and up.bias are zero, so the layer begins as `base` exactly; down.weight is random (how it
        is drawn is yours): were both zero, neither would ever move.

        Args:
            base: the layer that the adapter stands behind.
            size: width of the bottleneck, at least 1.
        """
        super().__init__()
        self.base = base
        self.base.weight.requires_grad = False
        if self.base.bias is not None:
            self.base.bias.requires_grad = False
            self.has_bias = True
        else:
            self.has_bias = False
        self.in_f = base.in_features
        self.out_f = base.out_features
        self.size = size
        self.down = nn.Linear(self.out_f, self.size)
        self.up = nn.Linear(self.size, self.out_f)
        self.down = self.down.to(self.base.weight.dtype)
        self.down = self.down.to(self.base.weight.device)
        self.up = self.up.to(self.base.weight.dtype)
        self.up = self.up.to(self.base.weight.device)
        self.up.weight.data = self.up.weight.data * 0
        self.up.bias.data = self.up.bias.data * 0

    def forward(self, x: Tensor) -> Tensor:
        """Task 4.7 (stretch): h + up(gelu(down(h))) with h = base(x), and gelu the exact one (not its tanh estimate).

        Args:
            x: shape (..., in_features).

        Returns:
            Shape (..., out_features), dtype of x.
        """
        h = self.base(x)
        z = self.down(h)
        z = F.gelu(z)
        z = self.up(z)
        # print(z.abs().max())
        y = h + z
        return y


class PEFTApplier:
    """Freezes a model and adds one kind of trainable part to it: LoRA factors or bottleneck adapters.

    Attributes:
        trainable: int, elements of the model's trainable parameters after apply(), a shared parameter counted once.
        total: int, elements of all its parameters after apply(), a shared one counted once, what was added included.
    """

    def __init__(self, model: nn.Module, method: str, target_modules: Iterable[str], size: int, alpha: float = 16.0) -> None:
        """Task 4.7 (stretch): take the settings; the model is not changed yet.

        Args:
            model: the model to adapt.
            method: "lora" or "adapter".
            target_modules: names or dotted suffixes, matched as `inject_lora` matches them; only `nn.Linear` counts.
            size: rank of the factors, or width of the adapters' bottleneck; at least 1.
            alpha: as in LoRALinear; adapters do not use it.

        Raises:
            ValueError: if method is neither of the two, or size is less than 1.
        """
        if method == "lora":
            self.is_lora = True
        elif method == "adapter":
            self.is_lora = False
        else:
            raise ValueError
        if size < 1:
            raise ValueError
        self.model = model
        self.method = method
        self.l = []
        for t in target_modules:
            self.l.append(t)
        self.size = size
        self.alpha = alpha
        self.trainable = 0
        self.total = 0

    def apply(self) -> nn.Module:
        """Task 4.7 (stretch): freeze the model, put a trainable layer at each targeted place, and count.

        "lora" puts a LoRALinear there (call your `inject_lora`), "adapter" an AdapterLinear. A Linear that stands at
        several names is wrapped once, and the one wrapper stands at each name that matches, also where only the targets
        of a later PEFTApplier match it. Afterwards what was added is trainable and nothing else is. Nothing inside a
        wrapper is ever wrapped; a second call changes nothing.

        A model that was adapted by the other method already is outside of this contract.

        Returns:
            The model that was passed in, the same object.

        Raises:
            ValueError: if a target matches no layer, before anything is changed.
        """
        if self.is_lora == True:
            inject_lora(self.model, self.l, self.size, self.alpha)
        else:
            d = {}
            for n, m in self.model.named_modules(remove_duplicate=False):
                d[n] = m
            inside = []
            for n in d:
                if type(d[n]) == AdapterLinear:
                    for n2 in d:
                        if n2.startswith(n + ".") or (n == "" and n2 != ""):
                            inside.append(n2)
            for t in self.l:
                cnt = 0
                for n in d:
                    if n != "" and n not in inside:
                        if n == t or n[-len(t) - 1 :] == "." + t:
                            if isinstance(d[n], nn.Linear):
                                cnt = cnt + 1
                            elif type(d[n]) == AdapterLinear:
                                cnt = cnt + 1
                if cnt == 0:
                    raise ValueError
            for n, p in self.model.named_parameters():
                p.requires_grad = False
            old = []
            new = []
            for n in d:
                if type(d[n]) == AdapterLinear:
                    old.append(d[n].base)
                    new.append(d[n])
            for n in d:
                if n != "" and n not in inside:
                    hit = False
                    for t in self.l:
                        if n == t or n[-len(t) - 1 :] == "." + t:
                            hit = True
                    if hit == True and isinstance(d[n], nn.Linear):
                        ad = None
                        for i in range(len(old)):
                            if old[i] is d[n]:
                                ad = new[i]
                        if ad is None:
                            ad = AdapterLinear(d[n], self.size)
                            old.append(d[n])
                            new.append(ad)
                        x = n.split(".")
                        p = self.model
                        for i in range(len(x) - 1):
                            p = getattr(p, x[i])
                        setattr(p, x[-1], ad)
            for n, m in self.model.named_modules():
                if type(m) == AdapterLinear:
                    m.down.weight.requires_grad = True
                    m.down.bias.requires_grad = True
                    m.up.weight.requires_grad = True
                    m.up.bias.requires_grad = True
        self.total = 0
        self.trainable = 0
        for n, p in self.model.named_parameters():
            self.total = self.total + p.numel()
        for n, p in self.model.named_parameters():
            if p.requires_grad == True:
                self.trainable = self.trainable + p.numel()
        # print(self.trainable, self.total)
        return self.model


class Ckpt(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        # return checkpoint(self.block, *args, **kwargs)
        return checkpoint(self.block, *args, use_reentrant=False, **kwargs)

# stub 9229301ca302a331
