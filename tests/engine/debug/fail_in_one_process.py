"""Two processes train, of which rank 1 gives what is not finite. Run by a test as a command."""

import argparse
import sys

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gn_det.config import get_cfg
from gn_det.engine import GradAccumTrainer, NonFiniteError, run


class Bad(nn.Module):
    """Gives infinity for the batch "loss", and an infinite gradient for "gradient".

    For "box" it raises an error in backward, as the pooler does on a GPU.
    """

    def forward(self, x, batch):
        """Return x, or infinity."""
        if batch == "gradient":
            return x + (x - x.detach()).abs().sqrt()
        if batch == "box":
            x = x * 1
            x.register_hook(refuse)
        return x / 0 if batch == "loss" else x


class Model(nn.Module):
    """A layer and what is bad."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), Bad()
        self.steep = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        """Return the loss; for "sum" its gradient is finite, and twice as much is not."""
        loss = self.b(self.a(torch.ones(1, 2)), batch).sum()
        return {"loss": loss + (self.steep - 1) * (3e38 if batch == "sum" else 0.0)}


def refuse(gradient):
    """Raise the pooler's error."""
    raise FloatingPointError("Box 3 of image 0 is not finite")


def main(args):
    """Do one step of each kind; the last one ends the process."""
    if args.what:
        step(args.what, 0, args.folder)
    for iteration, what in enumerate(("gradient", "sum")):
        try:
            step(what, iteration, args.folder)
        except NonFiniteError as error:
            if comm.is_main_process():
                print(error, flush=True)
    step("loss", 2, args.folder)


def step(what, iteration, folder):
    """Do one step."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Model())
    batch = what if what == "sum" or comm.get_rank() == 1 else "fine"
    trainer = GradAccumTrainer(model, [batch], torch.optim.SGD(model.parameters(), 0.1))
    if what == "sum":
        model.register_comm_hook(None, overflow)
    trainer.cfg, trainer.seed, trainer.iter = get_cfg(), 1, iteration
    trainer.cfg.OUTPUT_DIR = folder
    with EventStorage(iteration):
        trainer.run_step()


def overflow(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Sum up before the division, as some hooks do: two finite gradients become infinite."""
    buffer = bucket.buffer()
    work = dist.all_reduce(buffer, async_op=True).get_future()
    return work.then(lambda future: future.value()[0] / 2)


if __name__ == "__main__":
    given = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    run(main, argparse.Namespace(folder=sys.argv[1], what="".join(sys.argv[2:]), **given))
