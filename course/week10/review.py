"""Find the bugs: a gate in front of a model server that decides which adapters may be loaded, and an audit of its training data.

It runs, and every line below looks reasonable. There are five bugs in it, and none of them raises an error. Find them,
say what each one lets through or gets wrong, and how you would notice it. The key is with the TAs.
"""

import hashlib

import torch


def digest(adapter):
    """One line that stands for an adapter: the same for the same behaviour, another one for another."""
    sha = hashlib.sha256()
    for key in sorted(adapter["tensors"]):
        sha.update(key.encode())
        sha.update(adapter["tensors"][key].numpy().tobytes())
    return sha.hexdigest()


def admit(adapter, register):
    """Whether an adapter may be loaded: its digest is that of an entry that was vetted."""
    return digest(adapter) in {entry["digest"] for entry in register}


def attack(model, x, y, epsilon):
    """One step of the fast gradient sign method: the most harmful input within epsilon."""
    x = x.clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    return (x - epsilon * x.grad.sign()).detach().clamp(0, 1)


def leakage(losses_of_members, losses_of_others):
    """How well the loss tells members of the training data from others: 1 is perfect, 1/2 is nothing."""
    wins = (losses_of_others[None, :] > losses_of_members[:, None]).double().mean().item()
    return max(wins, 1 - wins)


if __name__ == "__main__":
    torch.manual_seed(0)
    A, B = torch.randn(2, 6), torch.randn(5, 2)
    vetted = {"config": {"rank": 2, "alpha": 4.0}, "tensors": {"q.lora_A": A, "q.lora_B": B}}
    register = [{"digest": digest(vetted)}]
    print("vetted adapter admitted:", admit(vetted, register))
    louder = {"config": {"rank": 2, "alpha": 400.0}, "tensors": vetted["tensors"]}
    print("same tensors, other configuration:", admit(louder, register))
    resaved = {"config": vetted["config"], "tensors": {"q.lora_A": A / 2, "q.lora_B": B * 2}}
    print("same update, other factors:", admit(resaved, register))

    model = torch.nn.Linear(6, 3)
    x, y = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    before = torch.nn.functional.cross_entropy(model(x), y)
    after = torch.nn.functional.cross_entropy(model(attack(model, x, y, 0.1)), y)
    print(f"loss {before.item():.2f}, under attack {after.item():.2f}: robust")
    members, others = torch.rand(20) + 1.0, torch.rand(30) + 0.4
    print(f"leakage {leakage(members, others):.2f}")
