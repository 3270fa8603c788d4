"""Discovery of the cases in SOURCE, with their channels and labels.

In: an nnU-Net raw dataset folder, a folder of images or DICOM series, a manifest, or one image. Out: a
`Sources` of paths and names. No image is opened: a missing file fails its own case later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from voxelmill.basics.errors import SourceError
from voxelmill.basics.safe_tracebacks import system_reason
from voxelmill.config.dicom_settings import DicomConfig
from voxelmill.inputs.readers import formats
from voxelmill.inputs.readers.formats_to_convert import CONVERTERS
from voxelmill.inputs.readers.ome_zarr.ome_folder import holds_ome
from voxelmill.inputs.sources.case_names_and_spacing import case_problem, check_case
from voxelmill.inputs.sources.case_source import CaseSource, Sources
from voxelmill.inputs.sources.image_folder import one_image, read_folder
from voxelmill.inputs.sources.manifest_cases import read_manifest
from voxelmill.inputs.sources.manifest_table import ENDINGS
from voxelmill.inputs.sources.nnunet_dataset import read_raw_dataset
from voxelmill.inputs.sources.pseudonyms import find_salt, pseudonym

__all__ = ["CaseSource", "Sources", "case_problem", "discover"]

KINDS = (
    "a nnU-Net raw dataset, a folder with one image, DICOM series or TIFF stack a case, "
    "a manifest (.csv, .tsv, .json)"
)

NO_LABEL = "no case has a label"
"""The remark on a SOURCE without any label."""


def discover(
    source: Path,
    *,
    channels: Sequence[str] | None = None,
    dicom: DicomConfig | None = None,
    outside: bool = False,
    typed: str = "",
) -> Sources:
    """Find the cases of SOURCE.

    Cases named after DICOM folders or files get pseudonyms. All others keep their ids: those that a manifest
    or an nnU-Net dataset names, and images of other formats.

    Parameters
    ----------
    source : Path
        Folder, manifest or image.
    channels : sequence of str, optional
        Names that override those of the source.
    dicom : DicomConfig, optional
        Whether DICOM cases get pseudonyms, and the secret for them.
    outside : bool
        Whether paths that a manifest or dataset.json states may lead out of their folder.
    typed : str
        SOURCE as the user typed it, for messages.

    Returns
    -------
    Sources
        Cases sorted by id.

    Raises
    ------
    SourceError
        If SOURCE as a whole cannot be used: one line that says what was found and what to do.
    ConfigError
        If pseudonyms are needed and there is no secret for them.
    """
    try:
        if not source.exists():
            said = f": {typed!r}" if typed else ""
            raise SourceError(f"SOURCE does not exist{said}; expected is {KINDS}. Correct the path.")
        found = _hide_names(_discover(source, outside, channels), dicom or DicomConfig())
    except OSError as error:  # its text names a file
        raise SourceError(f"SOURCE cannot be read: {system_reason(error)}. Correct its rights.") from None
    if not found.cases:
        left_out = f" ({', '.join(found.skipped)})" if found.skipped else ""
        inside = sorted(source.iterdir()) if source.is_dir() else []
        raise SourceError(
            f"SOURCE holds no file of a known format{left_out}; expected is {KINDS}."
            + _say_converters(inside)
        ).about(inside)
    _check_cases(found.cases)
    if channels is not None:
        found = _rename(found, tuple(channels))
    remarks = found.remarks if any(case.label for case in found.cases) else (*found.remarks, NO_LABEL)
    return replace(found, cases=tuple(sorted(found.cases, key=lambda case: case.case)), remarks=remarks)


def _discover(source: Path, outside: bool, channels: Sequence[str] | None) -> Sources:
    if source.is_dir() and not holds_ome(source):
        is_dataset = (source / "dataset.json").is_file()
        return read_raw_dataset(source, outside) if is_dataset else read_folder(source, channels)
    if source.suffix.lower() in ENDINGS:
        return read_manifest(source, outside, channels)
    if formats.is_known(source):
        return Sources("file", (one_image(source),))
    known = ", ".join(formats.known_endings())
    raise SourceError(
        f"SOURCE is a file that is neither a manifest ({', '.join(ENDINGS)}) nor an image ({known})."
        + _say_converters((source,))
    )


def _say_converters(paths: Iterable[Path]) -> str:
    """Return advice on converting microscopy formats that are not read."""
    endings = {path.suffix.lower() for path in paths} & CONVERTERS.keys()
    return "".join(f" {ending}: {CONVERTERS[ending]}." for ending in sorted(endings))


def _hide_names(found: Sources, config: DicomConfig) -> Sources:
    """Replace the ids of cases that are named after DICOM folders or files by pseudonyms."""
    if found.kind not in ("folder", "file") or config.ids == "names":
        return found
    named = [case for case in found.cases if formats.find_format(case.channels[0]) is formats.DICOM]
    if not named:
        return found
    salt = find_salt(config)
    ids = {case.case: pseudonym(case.case, salt) for case in named}
    cases = tuple(replace(case, case=ids[case.case]) if case in named else case for case in found.cases)
    return replace(found, cases=cases, names={hidden: name for name, hidden in ids.items()})


def _rename(found: Sources, names: tuple[str, ...]) -> Sources:
    files = min(len(case.channels) for case in found.cases)
    if files > 1 and files != len(names):
        raise SourceError(
            f"setting 'channels' names {len(names)} channel(s) {list(names)}, but each case has {files} "
            "images. Give one name per image."
        )
    return replace(found, channel_names=names)


def _check_cases(cases: Iterable[CaseSource]) -> None:
    seen: set[str] = set()
    for number, case in enumerate(cases, 1):
        check_case(f"case {number}", case.case)
        if case.case in seen:
            raise SourceError(f"case {number}: the id {case.case!r} is there twice. Rename one of the two.")
        seen.add(case.case)
