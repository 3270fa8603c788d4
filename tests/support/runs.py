"""Helpers that run the pipeline in this process and compare its output with the reference."""

import itertools
import json
from contextlib import nullcontext

import numpy as np
import SimpleITK as sitk  # noqa: N813
import zarr

from voxelmill.config.load_settings import load_config, make_config
from voxelmill.runs.job import Job
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine


def process(source, out, preset="default", restart=False, **settings):
    """Run all stages without a cluster."""
    config = make_config({**load_config(preset).model_dump(exclude_unset=True), **settings})
    job = Job(out, config, restart)
    sources = job.discover(source)
    return execute(job, sources)


def execute(job, sources, engine=None, stages=None):
    """Run all stages or some, on a given engine or without a cluster."""
    engine = engine or Engine(None, Reporter())
    return job.execute(stages or job.all_stages, lambda lease: nullcontext(engine), sources)


def group(out, case, configuration="fullres"):
    return zarr.open_group(out / "training.zarr" / configuration / case, mode="r")


def attributes(out, case, configuration="fullres"):
    return group(out, case, configuration).attrs["voxelmill"]


def compare(out, expected, configuration="fullres"):
    """Compare every case of the training store with the reference, array by array.

    Images may differ by 1e-5 of the value range plus the rounding of float32; labels must be equal.
    """
    folder = out / "training.zarr" / configuration
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(expected)
    for case, result in expected.items():
        arrays = group(out, case, configuration)
        image = arrays["image"]
        assert image.dtype == np.float32
        assert image.shape == result.image.shape, case
        for channel, (found, wanted) in enumerate(zip(image[:], result.image, strict=True)):
            scheme = attributes(out, case, configuration)["normalization"][channel]
            shift = abs(scheme["shift"] / scheme["scale"])  # subtracted in float32, as nnU-Net does
            rounding = np.finfo(np.float32).eps * (np.abs(wanted).max() + shift)
            tolerance = 1e-5 * np.ptp(wanted) + rounding
            worst = np.abs(found - wanted).max()
            assert worst <= tolerance, f"{case} channel {channel}: {worst} over {tolerance}"
        assert ("label" in arrays) == (result.label is not None), case
        if result.label is not None:
            assert arrays["label"].dtype.kind in "iu"
            np.testing.assert_array_equal(arrays["label"][:], result.label, err_msg=case)
        assert attributes(out, case, configuration)["crop_box"] == result.crop_box


def compare_geometry(out, grids, shapes, configuration="fullres"):
    """Assert that the outer corners of each written array are those of its crop box, by SimpleITK, in mm."""
    for case, grid in grids.items():
        stated = attributes(out, case, configuration)
        shape = group(out, case, configuration)["image"].shape[1:]
        image = grid.apply(sitk.Image([int(n) for n in reversed(shapes[case])], sitk.sitkUInt8))
        step = np.array(stated["direction"]) * stated["spacing"]
        for corner in itertools.product((0, 1), repeat=3):
            inside = [n * c - 0.5 for n, c in zip(shape, corner, strict=True)]
            source = [bounds[c] - 0.5 for bounds, c in zip(stated["crop_box"], corner, strict=True)]
            world = image.TransformContinuousIndexToPhysicalPoint(source[::-1])[::-1]
            np.testing.assert_allclose(step @ inside + stated["origin"], world, atol=2e-3)
        np.testing.assert_allclose(stated["source_spacing"], grid.spacing[::-1], rtol=1e-6)
        assert tuple(stated["source_shape"]) == tuple(shapes[case])


def fingerprint(out):
    return json.loads((out / "fingerprint.json").read_text())


def compare_statistics(out, statistics):
    found = fingerprint(out)["foreground_intensity_properties_per_channel"]
    for channel, wanted in enumerate(statistics):
        if wanted is None:
            assert str(channel) not in found
        else:
            assert found[str(channel)].keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_allclose(
                    found[str(channel)][name], value, rtol=1e-6, atol=1e-6, err_msg=name
                )
