import os

# Tests never reach for the network, but those of published weights: HF_HUB_OFFLINE=0 pytest -m weights. Set before
# the hub's library is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["ACCELERATE_USE_CPU"] = "true"

import torch
from lean_checks import check_package

torch.set_num_threads(1)  # on two cores, oversubscribed OpenMP threads once made a suite twenty times slower
check_package("diffpo")
