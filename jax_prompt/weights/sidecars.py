"""What lies beside a checkpoint on a model hub and says how its weights are to be used.

Two kinds of files are read: `preprocessor_config.json` and `config.json` of Hugging Face, and the
`config.json` of timm. They say what no name or shape in the checkpoint says: how images are
normalised, LayerNorm's epsilon, the number of heads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.table import TABLE
from jax_prompt.core.colour import Colour
from jax_prompt.core.json_file import load_json
from jax_prompt.weights.family import Hub
from jax_prompt.weights.identity import colour

ANY_NAME = ('model.safetensors', 'pytorch_model.bin')  # every repository has a file of this name
_SUFFIXES = ('.safetensors', '.bin', '.pth', '.pt', '.npz', '.tar', '.ckpt')
_MAX_BYTES = 2**20
_POOLS = {'token': 'cls', 'avg': 'mean'}


@dataclass
class Sidecar:
    """What the files beside a checkpoint say.

    Attributes:
      name: 'arch.tag' of the published weights that they name; ''.
      format: that of the checkpoint beside them; ''.
      mean: of images in [0, 1], or None.
      std: likewise.
      fields: fields of the network's configuration.
      files: the files that say it.
      notes: what was left aside, and why.
    """

    name: str = ''
    format: str = ''
    mean: Colour | None = None
    std: Colour | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_sidecar(path: Path, config: Config, hub: Hub) -> Sidecar:
    """Reads what lies beside a checkpoint.

    Args:
      path: the checkpoint. A folder with several checkpoints says of none of them which it
        describes, unless this one has the name that hubs give to the only one.
      config: the network that was asked for; files that describe another one are left aside.
      hub: how Hugging Face describes a network of its family.

    Raises:
      ValueError: such a file is damaged, or describes a network that is not supported.
    """
    said = Sidecar()
    files = ('config.json', 'preprocessor_config.json')
    found = [name for name in files if (path.parent / name).is_file()]
    if not found:
        return said
    others = [p for p in path.parent.iterdir() if p.suffix in _SUFFIXES and p.name != path.name]
    if others and path.name not in ANY_NAME:
        said.notes.append(
            f'{" and ".join(found)} beside {path.name} not read: the folder has several checkpoints'
        )
        return said
    for name in found:
        data = _read(path.parent / name)
        try:
            if name == 'preprocessor_config.json':
                _preprocessor(said, data)
            elif 'architecture' in data:
                _timm(said, data, config)
            elif 'model_type' in data:
                _hugging_face(said, data, config, hub)
            replace(config, **said.fields)  # refuses values that no network has
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f'{path.parent / name}: {error}') from error
    return said


def _read(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f'{path} has more than {_MAX_BYTES} bytes; move it away from the weights')
    data = load_json(path, 'mend it, or move it away from the weights')
    return data if isinstance(data, dict) else {}


def _preprocessor(said: Sidecar, data: Mapping[str, Any]) -> None:
    if data.get('do_normalize') is False or 'image_mean' not in data or 'image_std' not in data:
        return
    if not math.isclose(data.get('rescale_factor') or 1 / 255, 1 / 255, rel_tol=1e-3):
        raise ValueError(
            f'rescale_factor is {data["rescale_factor"]}; images are read in [0, 1]: move the file '
            'away and give --config.model.mean and --config.model.std'
        )
    said.mean, said.std = colour(data['image_mean'], 'mean'), colour(data['image_std'], 'std')
    said.files.append('preprocessor_config.json')


def _timm(said: Sidecar, data: Mapping[str, Any], config: Config) -> None:
    own = data.get('pretrained_cfg', data)
    if not isinstance(own, dict) or not _same(
        said, data, {'num_features': config.spec().feature_dim}
    ):
        return
    said.files.append('config.json')
    said.format = 'timm'
    if 'mean' in own and 'std' in own:
        said.mean, said.std = colour(own['mean'], 'mean'), colour(own['std'], 'std')
    if hasattr(config, 'norm_after_pool') and data.get('global_pool') in _POOLS:
        said.fields |= {'pool': _POOLS[data['global_pool']], 'norm_after_pool': False}
    published = f'/{data["architecture"]}.{own.get("tag")}/'
    if data.get('num_classes') == own.get('num_classes'):  # else somebody has tuned it further
        said.name = next((name for name, entry in TABLE.items() if published in entry.url), '')


def _hugging_face(said: Sidecar, data: Mapping[str, Any], config: Config, hub: Hub) -> None:
    if not _same(said, data, hub.same(config)):
        return
    if data.get('hidden_act', hub.activation) != hub.activation:
        raise ValueError(
            f'hidden_act is {data["hidden_act"]!r}, which is not supported; a {config.family} has '
            f'{hub.activation!r}'
        )
    if data.get('downsample_in_bottleneck'):
        raise ValueError(
            'downsample_in_bottleneck is true (a ResNet v1), which is not supported; give the '
            'weights of a ResNet v1.5'
        )
    said.files.append('config.json')
    for name, field_name in hub.fields.items():
        if name in data:
            whole = isinstance(getattr(config, field_name), int)
            said.fields[field_name] = data[name] if whole else float(data[name])


def _same(said: Sidecar, data: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a file describes the network that was asked for; notes that it does not."""
    wrong = [name for name, value in wanted.items() if value and data.get(name, value) != value]
    if wrong:
        said.notes.append(
            f'config.json beside the weights is not used: its {wrong[0]} is {data[wrong[0]]!r}, '
            f'the network has {wanted[wrong[0]]}'
        )
    return not wrong
