"""Trains the quickstart's network and says how long the training itself took: ``throughput.py EPOCHS``."""

import sys
import time

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from train_digits import build_model, load_data, pick_device, process_group, train

BATCH = 64
WARM_UP = 2

epochs = int(sys.argv[1])
torch.manual_seed(0)
torch.set_num_threads(1)
device = pick_device()
with process_group(device) as (rank, world_size):
    images, _images, labels, _labels = load_data(device)
    data = TensorDataset(images, labels)
    sampler = DistributedSampler(data, seed=0)
    loader = DataLoader(data, batch_size=BATCH // world_size, sampler=sampler)
    model = DistributedDataParallel(build_model().to(device))
    train(model, loader, sampler, WARM_UP, rank)
    begin = time.perf_counter()
    train(model, loader, sampler, epochs, rank)
    if rank == 0:
        print(f"learned {epochs * len(labels)} digits in {time.perf_counter() - begin:.6f} s", flush=True)
