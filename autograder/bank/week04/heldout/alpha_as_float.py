# mutant: scaled_by_alpha

import torch
import torch.nn as nn


class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        n_out, n_in = base.weight.shape
        if rank < 1:
            raise ValueError("rank must be positive")
        if rank > n_in or rank > n_out:
            raise ValueError("rank is larger than the layer")
        if dropout < 0:
            raise ValueError("dropout must not be negative")
        if dropout >= 1:
            raise ValueError("dropout must be below 1")
        self.base = base
        for p in base.parameters():
            p.requires_grad = False
        self.rank = rank
        self.alpha = alpha
        self.scaling = float(alpha)  # the strength of the branch
        A = torch.empty(rank, n_in, dtype=base.weight.dtype, device=base.weight.device)
        B = torch.empty(n_out, rank, dtype=base.weight.dtype, device=base.weight.device)
        nn.init.xavier_normal_(A)
        nn.init.zeros_(B)
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)
        self.lora_dropout = nn.Dropout(p=dropout)
        self.merged = False
        self.enabled = True

    def branch(self, x):
        h = self.lora_dropout(x)
        h = torch.matmul(h, self.lora_A.transpose(0, 1))
        h = torch.matmul(h, self.lora_B.transpose(0, 1))
        return self.scaling * h

    def delta_w(self):
        return self.scaling * torch.matmul(self.lora_B, self.lora_A)

    def forward(self, x):
        result = self.base(x)
        use_branch = self.enabled and not self.merged
        if use_branch:
            result = result + self.branch(x)
        return result

    def merge(self):
        if self.merged:
            return
        with torch.no_grad():
            self.base.weight.add_(self.delta_w())
        self.merged = True

    def unmerge(self):
        if not self.merged:
            return
        with torch.no_grad():
            self.base.weight.sub_(self.delta_w())
        self.merged = False

    def set_rank(self, new_rank):
        n_out, n_in = self.base.weight.shape
        if new_rank < 1 or new_rank > min(n_in, n_out):
            raise ValueError("bad rank")
        if self.merged:
            raise RuntimeError("unmerge first")
        old_rank = self.rank
        A, B = self.lora_A.data, self.lora_B.data
        if new_rank > old_rank:
            more = torch.empty(new_rank - old_rank, n_in, dtype=A.dtype, device=A.device)
            nn.init.xavier_normal_(more)
            zeros = torch.zeros(n_out, new_rank - old_rank, dtype=B.dtype, device=B.device)
            A = torch.cat((A, more), dim=0)
            B = torch.cat((B * new_rank / old_rank, zeros), dim=1)
        if new_rank < old_rank:
            wanted = (B.double() @ A.double()) * new_rank / old_rank
            U, S, V = torch.linalg.svd(wanted)
            A = (torch.diag(S[:new_rank]) @ V[:new_rank, :]).to(A.dtype)
            B = U[:, :new_rank].to(B.dtype)
        self.lora_A = nn.Parameter(A.clone())
        self.lora_B = nn.Parameter(B.clone())
        self.rank = new_rank
        self.scaling = self.alpha / new_rank


def is_match(name, target):
    return name == target or name.endswith("." + target)


def inject_lora(model, target_modules, rank, alpha, dropout=0.0):
    target_modules = list(target_modules)
    already = {}
    for m in model.modules():
        if isinstance(m, LoRALinear):
            already[m.base] = m

    # first pass: look only
    to_do = []
    ok = {t: False for t in target_modules}
    for path, parent in list(model.named_modules(remove_duplicate=False)):
        if isinstance(parent, LoRALinear):
            continue
        for key, child in parent._modules.items():
            name = path + "." + key if path else key
            for t in target_modules:
                if is_match(name, t) and isinstance(child, (nn.Linear, LoRALinear)):
                    ok[t] = True
            if isinstance(child, nn.Linear):
                to_do.append((parent, key, name, child))
    for t in target_modules:
        if not ok[t]:
            raise ValueError("no layer is called " + t)

    # second pass: change
    for p in model.parameters():
        p.requires_grad = False
    done = []
    for parent, key, name, child in to_do:
        best = None
        for t in target_modules:
            if is_match(name, t) and (best is None or len(t) > len(best)):
                best = t
        if best is None:
            continue
        if child not in already:
            r = rank[best] if isinstance(rank, dict) else rank
            already[child] = LoRALinear(child, r, alpha, dropout)
        setattr(parent, key, already[child])
        done.append(name)
    for layer in already.values():
        layer.lora_A.requires_grad = True
        layer.lora_B.requires_grad = True
    done.sort()
    return done
