"""Pairs of images and labels in one folder, by file names alone.

In: paths. Out: pairs, and the rule that made each. No file is opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxelmill.basics.errors import SourceError
from voxelmill.inputs.readers import formats
from voxelmill.inputs.readers.tiff.stack_file_names import without_channel

SUFFIXES = (
    "_cp_masks",
    "_masks",
    "_mask",
    "-mask",
    "_segmentation",
    "_seg",
    "-seg",
    ".seg",
    "_labelmap",
    "_labels",
    "_label",
    "-label",
    "_gt",
    "_annotation",
)
"""Suffixes of label files after the stem of their image, as annotation and segmentation tools write them."""

WORDS = (
    "annotation",
    "annotations",
    "groundtruth",
    "gt",
    "label",
    "labelmap",
    "labels",
    "mask",
    "masks",
    "roi",
    "rois",
    "seg",
    "segmentation",
    "segmentations",
    "truth",
)
"""Names of label files, without blanks, underscores and hyphens."""

MANIFEST = "Write a manifest (.csv): `case,image,label`, then a line for each case with its paths"


@dataclass(frozen=True)
class Pair:
    """An image, its label if it has one, and the suffix or word that identified the label."""

    image: Path
    label: Path | None = None
    rule: str = ""


def is_word(name: str) -> bool:
    """Return whether a name is typical of labels: ``Ground Truth``, ``mask_path``."""
    plain = re.sub(r"[\s_-]+", "", name).lower()
    return re.sub(r"(path|file)$", "", plain) in WORDS


def suffix_of(name: str) -> str:
    """Return the label suffix of a name in lower case; empty if it has none."""
    return next((s for s in SUFFIXES if name.lower().endswith(s) and len(name) > len(s)), "")


def find_pairs(paths: Sequence[Path], *, alone: bool = False) -> tuple[Pair, ...]:
    """Pair the images of a folder with their labels.

    A label has the name of its image followed by one of `SUFFIXES`; if there is only one other file, it may
    have one of `WORDS` as its name.

    Parameters
    ----------
    paths : sequence of Path
        The images of a folder, labels among them.
    alone : bool
        Whether files are images if every one is named like a label.

    Raises
    ------
    SourceError
        If an image has two labels, or a label has no image.
    """
    images = {path: _called(path) for path in paths}
    labels = {path: name for path, name in images.items() if name}
    found: dict[Path, list[Path]] = {path: [] for path in paths if path not in labels}
    lost = [label for label in labels if not _add(found, label, labels[label])]
    if lost and (found or not alone):
        raise SourceError(_lost(labels[lost[0]], len(lost), not found)).about(lost)
    for image, of in found.items():
        if len(of) > 1:
            rules = " and ".join(repr(labels[label]) for label in sorted(of))
            raise SourceError(
                f"an image has {len(of)} labels beside it, called by {rules}. {MANIFEST}."
            ).about((image, *sorted(of)))
    pairs = [Pair(image, *((of[0], labels[of[0]]) if of else ())) for image, of in found.items()]
    return tuple(sorted([*pairs, *map(Pair, lost)], key=lambda pair: pair.image))


def say_rules(pairs: Iterable[Pair]) -> tuple[str, ...]:
    """Return a remark per rule that found labels; it holds no file name."""
    known = list(pairs)
    counts = Counter(pair.rule for pair in known if pair.label)
    return tuple(
        f"{n} of {len(known)} images have their label beside them: the file called {_words(rule)}"
        for rule, n in sorted(counts.items())
    )


def say_channels(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Return a remark on cases that are named like channels of one image; it holds no file name."""
    shared = Counter(without_channel(formats.case_stem(pair.image)) for pair in pairs)
    several = [n for name, n in shared.items() if name and n > 1]
    if not several:
        return ()
    return (
        f"{sum(several)} of {len(pairs)} images are called as the channels of {len(several)} (ch0, ch1), and "
        "are a case each; to make them channels write a manifest with a column for each",
    )


def _called(path: Path) -> str:
    """Return the suffix or word that marks a file as a label; empty if there is none."""
    stem = formats.case_stem(path)
    return stem.lower() if is_word(stem) else suffix_of(stem)


def _add(found: Mapping[Path, list[Path]], label: Path, rule: str) -> bool:
    """Assign a label to its image; return whether there is one."""
    stem = formats.case_stem(label)
    if is_word(stem):  # a name such as "mask" says nothing of its image: only one can be meant
        own = list(found) if len(found) == 1 else []
    else:
        own = [image for image in found if formats.case_stem(image) == stem[: -len(rule)]]
    for image in own:
        found[image].append(label)
    return bool(own)


def _lost(rule: str, count: int, all_of_them: bool) -> str:
    what = f"{count} file(s) are called as labels are ({rule!r} is one way) and have no image beside them"
    if all_of_them:
        return f'{what}. {MANIFEST}; if they are images, name their channel, as in channels=["MR"].'
    return f"{what}, where other files are images. {MANIFEST}, or move them away."


def _words(rule: str) -> str:
    return f"as the image with {rule!r} behind" if rule in SUFFIXES else repr(rule)
