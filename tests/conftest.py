"""Settings of all tests."""

import os

# Set before torch or numpy is loaded: workers of pytest-xdist share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "moevit",
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "moevit"))
