"""A folder as SOURCE: one file or sub-folder per case, with labels beside the images.

In: a folder. Out: `Sources`. Files are opened only to recognise formats and data files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from voxelmill.basics.errors import SourceError
from voxelmill.inputs.readers import formats as readers
from voxelmill.inputs.readers.nifti.header_voxel_pairs import is_header, is_stranger, is_voxels
from voxelmill.inputs.readers.tiff.stack_folder import are_tiff_pages
from voxelmill.inputs.sources.case_names_and_spacing import count_endings, stated_spacing
from voxelmill.inputs.sources.case_source import CaseSource, Sources
from voxelmill.inputs.sources.image_label_pairs import (
    MANIFEST,
    Pair,
    find_pairs,
    is_word,
    say_channels,
    say_rules,
)

_DATA_ENDINGS = (".raw", ".zraw", ".raw.gz", ".img", ".img.gz")
"""Endings of data files that belong to an image of the same stem."""

_PART_ENDINGS = (".raw", ".zraw", ".img", ".gz", ".bz2", ".bin", ".dat", ".data", ".hex", ".txt")
"""Endings of files that a header may name as its data."""


def read_folder(source: Path, channels: Sequence[str] | None) -> Sources:
    """Return every case of a folder.

    Parameters
    ----------
    source : Path
        The folder.
    channels : sequence of str, optional
        The setting `channels`. If every file is named like a label, it means that they are images.

    Raises
    ------
    SourceError
        If it is ambiguous which label belongs to which image, or which images make up a case.
    """
    entries = _visible(source)
    _refuse_label_folders(entries)
    images = _images(entries)
    # DICOM files side by side are the slices of one series
    if images and all(path.is_file() and readers.find_format(path) is readers.DICOM for path in images):
        return _whole(source)
    inside = _look_inside(entries, channels)
    pairs = find_pairs([path for path in images if path not in inside], alone=channels is not None)
    if are_tiff_pages(images) and not any(pair.label for pair in pairs):
        return _whole(source)
    if not pairs:
        _refuse_several(inside)
    own = {folder: of[0] for folder, of in inside.items() if len(of) == 1}
    taken = {*images, *own} - (inside.keys() - own.keys())
    stems = {readers.case_stem(path) for path in images}
    others = _without_parts(
        [path for path in entries if path not in taken and not _belongs(path, stems)], images
    )
    cases = [_case(pair) for pair in pairs] + [_case(pair, folder) for folder, pair in own.items()]
    remarks = (*say_rules([*pairs, *own.values()]), *say_channels(pairs))
    return Sources("folder", tuple(cases), skipped=count_endings(others), remarks=remarks)


def one_image(path: Path, label: Path | None = None) -> CaseSource:
    """Return the case of one image, with the stem of its file or folder as id."""
    case = readers.case_stem(path)
    return CaseSource(case, (path,), label, stated_spacing(path, case))


def _whole(source: Path) -> Sources:
    """Return the source of a folder that is one image."""
    return Sources("folder", (one_image(source if source.name not in ("", "..") else source.resolve()),))


def _case(pair: Pair, folder: Path | None = None) -> CaseSource:
    """Return a case named after its image, or after its folder if that holds a single image."""
    made = one_image(pair.image, pair.label)
    if folder is None:
        return made
    return replace(made, case=folder.name, spacing=made.spacing or stated_spacing(pair.image, folder.name))


def _look_inside(entries: Iterable[Path], channels: Sequence[str] | None) -> dict[Path, tuple[Pair, ...]]:
    """Return folders that hold images but are not one; beside other images, only folders of TIFF files."""
    formats = {path: readers.find_format(path) for path in entries}
    images = [p for p, kind in formats.items() if kind and (kind is not readers.TIFF or p.is_file())]
    kinds = (readers.TIFF,) if images else (readers.TIFF, None)
    folders = [path for path, kind in formats.items() if kind in kinds and path.is_dir()]
    return {path: pairs for path in folders if (pairs := _inside(path, formats[path], channels))}


def _inside(folder: Path, kind: readers.Format | None, channels: Sequence[str] | None) -> tuple[Pair, ...]:
    """Return the images in a folder; empty if it has none, or is a stack of TIFF pages."""
    entries = _visible(folder)
    is_tiff = kind is readers.TIFF
    images = _images(entries)
    pairs = find_pairs(images, alone=is_tiff or channels is not None)
    if not pairs or (is_tiff and not any(pair.label for pair in pairs)):
        return ()
    _refuse_label_folders(entries)
    return pairs


def _refuse_label_folders(entries: Iterable[Path]) -> None:
    called = sorted(path for path in entries if path.is_dir() and _is_label_folder(path.name))
    if called:
        raise SourceError(
            f"SOURCE holds labels in a folder of their own ({called[0].name!r}); which is whose is not "
            f"guessed. {MANIFEST}, or the dataset.json of a nnU-Net raw dataset."
        ).about(called)


def _is_label_folder(name: str) -> bool:
    return is_word(name) or name.lower() in ("labelstr", "labelsts")


def _refuse_several(inside: Mapping[Path, Sequence[Pair]]) -> None:
    several = {folder: len(pairs) for folder, pairs in inside.items() if len(pairs) > 1}
    if several:
        first = next(iter(several.values()))
        raise SourceError(
            f"{len(several)} of {len(inside)} sub-folders of SOURCE hold several images, the first {first}: "
            "cases, or channels of one? Write a manifest (.csv): `case`, a name for each channel and perhaps "
            "`label`, then a line for each case with its paths."
        ).about(several)


def _images(entries: Iterable[Path]) -> list[Path]:
    """Return the images among the files of a folder.

    The voxel file of a header is not an image of its own, and beside other images neither is a .hdr file of
    another program.
    """
    images = [path for path in entries if readers.is_known(path)]
    voxels = [path for path in images if is_voxels(path)]
    parts = {*voxels} - {*_without_parts(voxels, [path for path in images if not is_voxels(path)])}
    images = [path for path in images if path not in parts]
    return [path for path in images if not is_stranger(path)] or images


def _without_parts(paths: Sequence[Path], images: Iterable[Path]) -> list[Path]:
    """Drop files that a header among the images names as data; headers are read only if one could."""
    if not any(path.name.lower().endswith(_PART_ENDINGS) for path in paths):
        return list(paths)
    headers = [image for image in images if is_header(image) or image.suffix.lower() in (".mhd", ".nhdr")]
    parts = {part for header in headers for part in readers.data_files(header)}
    return [path for path in paths if path not in parts]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _belongs(path: Path, stems: set[str]) -> bool:
    """Return whether a file is the data file or the spacing of an image with the same stem."""
    endings = (*_DATA_ENDINGS, ".json")
    return any(path.name.endswith(e) and path.name.removesuffix(e) in stems for e in endings)
