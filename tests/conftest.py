"""What all tests share."""

from hypothesis import settings

settings.register_profile("voxelmill", deadline=None)  # timings are noisy, and first calls compile
settings.load_profile("voxelmill")
