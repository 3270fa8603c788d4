"""What all tests share."""

import os
import tempfile

from hypothesis import settings

settings.register_profile("voxelmill", deadline=None)  # timings are noisy, and first calls compile
settings.load_profile("voxelmill")

_HOME = tempfile.TemporaryDirectory()
os.environ["XDG_CONFIG_HOME"] = _HOME.name  # where the secret of pseudonyms is made, not in the user's own
