"""A toy family: predicts a number of stars from the number of exclamation marks, with two linear layers."""

import torch
from torch import nn

from lorabel.families.base import Family
from lorabel_shouting.shouting import Stars, Words


class Counter(Family):
    """Answers `Words`, of which only the text matters, with `Stars`."""

    name = "counter"
    inputs = (Words,)
    modalities = frozenset()
    default_source = "toy"

    def __init__(self, source, device, dtype):
        torch.manual_seed(0)
        self.source, self.device, self.dtype = source, device, dtype
        self.module = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1)).requires_grad_(False)

    @classmethod
    def load(cls, source, device, dtype, settings):
        return cls(source, device, dtype)

    @classmethod
    def tiny(cls, folder):
        return "toy"

    def prepare(self, question, fetch):
        return torch.tensor([float(question.text.count("!"))])

    def augment(self, examples, targets, generator):
        return examples, targets

    def predict(self, examples, adapters, bank, cache):
        with torch.inference_mode(), bank.use(adapters):
            return [Stars(number=float(n)) for n in self.module(torch.stack(list(examples)))]

    def loss(self, examples, targets):
        return (self.module(torch.stack(list(examples)))[:, 0] - torch.tensor(targets)).square()
