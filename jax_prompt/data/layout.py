"""Where the splits and classes of an image folder lie, told by the names of its folders.

A folder looks like a split where its name is a word for one: 'train', 'val', 'dev', 'testing'.
Digits and words that say nothing may stand with it: 'train800', 'test_set', 'TrainImages'. So may
the name of the data ('pets_train' in 'pets') and a word that several such folders share
('seg_train', 'seg_test'). Its class folders may lie in one more folder of its own name.

Such a folder is a split where it holds class folders. A folder 'train' that holds images and lies
beside other class folders is a class of that name. What fits neither way is an error.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jax_prompt.core.printable import printable, some
from jax_prompt.data.files import entries, holds_images, is_hidden, is_image, walk_images

SPLITS = ('train', 'val', 'test')
_WORDS = {
    **dict.fromkeys(('train', 'training', 'trn'), 'train'),
    **dict.fromkeys(('val', 'valid', 'validation', 'dev', 'devel', 'development'), 'val'),
    **dict.fromkeys(('test', 'testing', 'tst'), 'test'),
    'trainval': 'train+val',
}
_PLAIN = (
    'set sets data dataset datasets image images img imgs pic pics picture pictures photo photos'
)
_PLAIN += ' folder split splits file files sample samples new final full small cropped resized raw'
_NEUTRAL = frozenset(_PLAIN.split())
_JOINED = re.compile(
    rf'^({"|".join(sorted(_WORDS, key=len, reverse=True))})'
    r'(sets?|data|dataset|images?|imgs?|pics?|split|folder)$'
)


@dataclass(frozen=True)
class Layout:
    """Where the class folders of an image folder lie.

    Attributes:
      splits: the folder of class folders of each split; {}: the class folders lie at the top.
      notes: what was left out and why, for the user.
    """

    splits: dict[str, Path]
    notes: tuple[str, ...] = ()


def split_of(name: str, neutral: Sequence[str] = ()) -> str | None:
    """Returns the split that a name means, 'train+val' for both; None where it means none.

    Args:
      name: of a folder, or of a list file without its suffix.
      neutral: words, besides the usual ones, that may stand in it.
    """
    found, others = _read(name)
    return found if found and others <= {*_NEUTRAL, *neutral} else None


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder that are not hidden, sorted."""
    return [one for one in entries(folder) if one.is_dir() and not is_hidden(one.name)]


def find_layout(root: Path) -> Layout:
    """Finds out where splits and classes lie.

    Raises:
      ValueError: the names can be read in more than one way, or a split is there twice.
    """
    folders = subfolders(root)
    found = _candidates(root, folders)
    if not found:
        return Layout({})
    places = {one: _inside(one) for one in found}
    deep = {one for one in found if any(map(holds_images, subfolders(places[one])))}
    flat = {one for one in found if one not in deep and holds_images(places[one])}
    others = [one for one in folders if one not in found and holds_images(one)]
    if not deep:
        if others and all(found[one] == 'train' for one in flat) and flat == set(found):
            return Layout({})  # a class of this name among others
        if not flat and not others:
            raise ValueError(f'{root}: no images in its folders {_names(found)}')
        raise ValueError(_asks(root, found, others, 'hold no class folders'))
    splits = _assign(root, {one: found[one] for one in found if one in deep}, places)
    if others and ('train' not in splits or (set(found) == deep and set(splits) == {'train'})):
        raise ValueError(_asks(root, found, others, 'hold folders'))
    empty = [one for one in found if one not in deep and one not in flat]
    if empty:
        raise ValueError(f'{empty[0]}: a split folder without images; add some or remove it')
    notes = [
        f'{one}: its {_count(one)} images lie in no class folders, so they have no labels; they '
        'are left out (jax-prompt predict takes such images)'
        for one in sorted(flat)
    ]
    return Layout(splits, (*notes, *_left_out(root, splits, others)))


def _read(name: str) -> tuple[str | None, set[str]]:
    """Returns the split that is in a name, and the other words in it."""
    spaced = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', name)
    splits, others = set(), set()
    for word in re.findall(r'[^\W\d_]+', spaced):
        word = word.lower()
        joined = _JOINED.match(word)
        word = joined[1] if joined else word
        (splits.add(_WORDS[word]) if word in _WORDS else others.add(word))
    if splits == {'train', 'val'}:
        splits = {'train+val'}
    return (splits.pop() if len(splits) == 1 else None), others


def _candidates(root: Path, folders: Sequence[Path]) -> dict[Path, str]:
    """Returns the folders that look like splits, and which."""
    own = re.findall(r'[^\W\d_]+', root.resolve().name.lower())
    read = {one: _read(one.name) for one in folders}
    # A word that stands with two different splits is part of the data's name.
    pairs = {(word, split) for split, words in read.values() if split for word in words}
    shared = [word for word, times in Counter(word for word, _ in pairs).items() if times > 1]
    found = {one: split_of(one.name, [*own, *shared]) for one in folders}
    return {one: split for one, split in found.items() if split}


def _inside(folder: Path) -> Path:
    """Returns the folder that holds a split's class folders: itself, or the only one in it."""
    folders = subfolders(folder)
    files = [one for one in entries(folder) if is_image(one.name) and not one.is_dir()]
    if len(folders) != 1 or files:
        return folder
    split, words = _read(folders[0].name)
    same = folders[0].name == folder.name or (split and split == _read(folder.name)[0])
    return folders[0] if same or (split is None and words and words <= _NEUTRAL) else folder


def _assign(root: Path, deep: dict[Path, str], places: dict[Path, Path]) -> dict[str, Path]:
    """Returns the place of each split."""
    out: dict[str, Path] = {}
    joint = [one for one in deep if deep[one] == 'train+val']
    for folder, split in deep.items():
        if split == 'train+val' and len(deep) - len(joint) > ('test' in deep.values()):
            raise ValueError(
                f'{root}: {printable(folder.name)} holds train and val, which have folders of '
                'their own; move it away'
            )
        split = split.removesuffix('+val')
        if split in out:
            first = next(one for one in deep if places[one] == out[split])
            raise ValueError(
                f'{root}: {printable(first.name)} and {printable(folder.name)} are the same split '
                f'({split}); rename or move one'
            )
        out[split] = places[folder]
    return out


def _left_out(root: Path, splits: dict[str, Path], others: Sequence[Path]) -> list[str]:
    """Returns notes on folders of images beside the splits.

    Raises:
      ValueError: one is a class, or a split of a name that says nothing.
    """
    classes = {one.name for one in subfolders(splits['train'])} if splits.get('train') else set()
    notes = []
    for one in others:
        within = {sub.name for sub in subfolders(_inside(one))}
        if one.name in classes or within & classes:
            raise ValueError(
                f'{root}: {printable(one.name)} lies beside the split folders '
                f'{_names(splits.values())} and {"is" if one.name in classes else "holds"} one of '
                f'their classes; rename it to train, val or test, or move it away'
            )
        notes.append(f'{one}: its {_count(one)} images belong to no split; they are left out')
    return notes


def _asks(root: Path, found: dict[Path, str], others: Sequence[Path], what: str) -> str:
    beside = f', beside {_names(others)}' if others else ''
    train = next((one for one in found if found[one] == 'train'), None)
    alone = f' or set data={train}' if others and train else ''
    return (
        f'{root}: {_names(found)} look like splits and {what}{beside}. If they are splits, put '
        f'class folders into them and move other folders away{alone}; if all are classes, set '
        f'data=class_folders:{root}'
    )


def _count(folder: Path) -> int:
    return sum(1 for _ in walk_images(folder, []))


def _names(folders: Iterable[Path]) -> str:
    return some([one.name for one in folders], 10)
