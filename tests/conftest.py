"""Settings that have to be made before torch is imported."""

import os

# Threads that spin while they wait for each other are far slower than one on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
