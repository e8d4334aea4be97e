"""Train a small convolutional network on scikit-learn's handwritten digits, on one process or on several.

python train_digits.py                         one process
torchrun --nproc-per-node 2 train_digits.py    two processes by hand
%dlrun train_digits.py --nproc 2               two processes from a notebook, with --gpus 2 on two GPUs
"""

import argparse
import os
from contextlib import contextmanager

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm


@contextmanager
def process_group(device):
    """Join the group that torchrun describes in the environment; leave it whatever happens."""
    if "RANK" not in os.environ:  # started as a plain script: a group of one
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def pick_device():
    """Return this process's own GPU, or the CPU when there is not one for each process."""
    if torch.cuda.device_count() < int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda", torch.cuda.current_device())


def load_data(device):
    """Return train images, test images, train labels, test labels; images are 1 x 8 x 8 with values from 0 to 1."""
    digits = load_digits()
    parts = train_test_split(digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=0)
    train_x, test_x = (torch.tensor(part, dtype=torch.float32, device=device).unsqueeze(1) / 16 for part in parts[:2])
    train_y, test_y = (torch.tensor(part, dtype=torch.long, device=device) for part in parts[2:])
    return train_x, test_x, train_y, test_y


def build_model():
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def train(model, loader, sampler, epochs, rank):
    """Return the mean loss of each epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * len(loader))
    losses = []
    model.train()
    for epoch in (bar := tqdm(range(epochs), desc="epochs", disable=rank != 0)):
        sampler.set_epoch(epoch)
        total = torch.zeros((), device=next(model.parameters()).device)
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        losses.append(total.item() / len(loader))
        bar.set_postfix(loss=f"{losses[-1]:.4f}")
    return losses


@torch.no_grad()
def accuracy(model, images, labels, rank, world_size):
    """Return the share of right answers over the whole test set, each rank doing its part of it."""
    model.eval()
    mine = slice(rank, None, world_size)
    right = (model(images[mine]).argmax(1) == labels[mine]).sum()
    dist.all_reduce(right)
    return right.item() / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64, help="over all processes together")
    parser.add_argument("--save", default="digits.pt", help="file for the trained network and its figures")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network only loses time by handing out its work
    device = pick_device()
    with process_group(device) as (rank, world_size):
        train_x, test_x, train_y, test_y = load_data(device)
        if rank == 0:
            print(f"{len(train_y)} digits to learn from, {world_size} process(es) on {device.type}", flush=True)
        data = TensorDataset(train_x, train_y)
        sampler = DistributedSampler(data, seed=0)
        loader = DataLoader(data, batch_size=max(1, args.batch_size // world_size), sampler=sampler)
        model = DistributedDataParallel(build_model().to(device))
        losses = train(model, loader, sampler, args.epochs, rank)
        score = accuracy(model.module, test_x, test_y, rank, world_size)
        if rank == 0:
            print(f"test accuracy {100 * score:.1f} %")
            weights = {name: value.cpu() for name, value in model.module.state_dict().items()}
            torch.save({"weights": weights, "accuracy": score, "losses": losses}, args.save)


if __name__ == "__main__":
    main()
