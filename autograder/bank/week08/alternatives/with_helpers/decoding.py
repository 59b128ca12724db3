"""How a reply is decoded, in parts."""

from contextlib import contextmanager

import torch


class Greedy:
    def __call__(self, logits):
        return int(torch.topk(logits, 1).indices)


class Nucleus:
    def __init__(self, top_p, temperature, uniform):
        if not 0 < top_p <= 1 or temperature <= 0:
            raise ValueError("top_p or temperature is out of its range")
        self.top_p, self.temperature, self.uniform = top_p, temperature, uniform

    def __call__(self, logits):
        p = torch.softmax(logits.double() / self.temperature, dim=-1)
        ranked, tokens = torch.sort(p, descending=True)
        before = ranked.cumsum(0) - ranked  # the sum of those in front of each
        inside = torch.where(before < self.top_p, ranked, torch.zeros_like(ranked))
        reached = inside.cumsum(0) / inside.sum()
        place = torch.searchsorted(reached, torch.tensor([self.uniform()], dtype=reached.dtype), right=True)
        return int(tokens[place])


@contextmanager
def evaluation(model):
    module = model if isinstance(model, torch.nn.Module) else None
    was = module.training if module is not None else False
    if module is not None:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if module is not None:
            module.train(was)


def prompt(tokenizer, template, turns):
    ids = []
    for said, replied in turns:
        ids += tokenizer.encode(template.format(message=said))
        if replied is not None:
            ids += tokenizer.encode(replied)
            ids.append(tokenizer.eos_id)
    return ids


def decode(model, ids, choose, eos_id, limit):
    new = []
    for _ in range(limit):
        context = torch.tensor(ids + new, dtype=torch.int64).view(1, -1)
        token = choose(model(context)[0][-1])
        if token == eos_id:
            return new
        new += [token]
    return new
